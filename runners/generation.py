"""What the tasks that write text have in common: parameters, defaults, and rules of length."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, Field

from batching.rows import BatchLimits, Row
from errors import InvalidRequest, ServingError
from loading.pretrained import Pretrained, load_pretrained
from loading.storage import Checkpoint, fetch
from runners.base import Item, Job, Runner
from runners.generator import Generator
from runners.parameters import Parameters
from runners.prompt import Plan, Prompt, Sequences

#: More than any model writes at once: a slip of the keyboard must not occupy a model that has no limit of its own.
_MAX_TOKENS = 1_000_000

#: Below this, sampling is greedy in all but rounding, and logits divided by it overflow at last.
_LEAST_TEMPERATURE = 1e-5


def _as_list(value: Any) -> Any:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


_StopString = Annotated[str, Field(min_length=1, max_length=1000)]


class GenerationParameters(Parameters):
    """Lengths are in tokens, and `max_new_tokens` wins over `max_length`; `temperature` 0 is greedy, `top_k` 0 off."""

    max_length: int | None = Field(None, ge=1, le=_MAX_TOKENS)
    max_new_tokens: int | None = Field(None, ge=1, le=_MAX_TOKENS)
    min_new_tokens: int | None = Field(None, ge=0, le=_MAX_TOKENS)
    do_sample: bool = False
    temperature: float = Field(1.0, ge=0, le=100)
    top_k: int = Field(50, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    num_return_sequences: int = Field(1, ge=1, le=64)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    stop: Annotated[list[_StopString], BeforeValidator(_as_list)] = Field(default_factory=list, max_length=16)
    seed: int | None = Field(None, ge=0, lt=2**63)
    truncation: bool = False


ParametersT = TypeVar("ParametersT", bound=GenerationParameters)
ContextT = TypeVar("ContextT")


class GenerationRunner(Runner[ParametersT, Prompt, ContextT, Sequences]):
    """A runner whose model writes one token after another."""

    #: The AutoModel class of the task.
    auto_class: ClassVar[Any]
    example = "Hello"

    checkpoint: Checkpoint
    pretrained: Pretrained
    generator: Generator

    def load(self) -> None:
        self.checkpoint = fetch(self.settings)
        self.pretrained = load_pretrained(self.auto_class, self.checkpoint, self.settings)
        self.generator = Generator(self.pretrained)

    @property
    def limits(self) -> BatchLimits:
        # A step reads all weights, for one row as for many: unlike an encoder, a CPU too gains by company.
        gpu = self.pretrained.model.device.type == "cuda"
        return BatchLimits(
            max_rows=self.settings.max_batch_size or (64 if gpu else 16),
            max_tokens=self.settings.max_batch_tokens or (32768 if gpu else 4096),
        )

    @property
    def defaults(self) -> dict[str, Any]:
        settings = self.settings
        defaults = {
            "do_sample": settings.do_sample,
            "temperature": settings.temperature,
            "top_k": settings.top_k,
            "top_p": settings.top_p,
            "truncation": settings.truncation,
        }
        if settings.explicit_max_length is not None:
            defaults["max_length"] = settings.explicit_max_length
        return defaults

    def warm_up(self) -> None:
        # Two tokens, whatever the operator's max_length: it may be very large, or too small for the example.
        (result,) = self.predict([Item(self.example_instance(), {"max_new_tokens": 2})])
        if isinstance(result, ServingError):
            raise result

    def forward(self, rows: Sequence[Row[Prompt]]) -> Sequence[Sequences]:
        return self.generator.generate([row.inputs for row in rows])

    def texts(self, job: Job[Prompt, ContextT], outputs: Sequence[Sequences]) -> list[str]:
        """The new text of each sequence of a job of one row."""
        prompt = job.rows[0].inputs
        return [prompt.text(self.pretrained.tokenizer, tokens) for tokens in outputs[0]]

    def wanted_tokens(self, parameters: ParametersT, used: int, what: str) -> int:
        """New tokens that a request asks for, at least one; what the model's context allows is another matter.

        Args:
            used: tokens that `max_length` counts before the first new one.
            what: what they are, for the message.

        Raises:
            InvalidRequest: they fill `max_length`, or `min_new_tokens` is more than the answer may have.
        """
        if parameters.max_new_tokens is not None:
            wanted = parameters.max_new_tokens
        elif parameters.max_length is not None:
            wanted = parameters.max_length - used
            if wanted < 1:
                raise InvalidRequest(
                    f"max_length is {parameters.max_length} tokens and {what} alone takes {used}: "
                    "raise parameters.max_length, or set parameters.max_new_tokens"
                )
        else:
            wanted = self.settings.max_length
        if parameters.min_new_tokens is not None and parameters.min_new_tokens > wanted:
            raise InvalidRequest(
                f"parameters.min_new_tokens is {parameters.min_new_tokens} and the answer may have {wanted}"
            )
        return wanted

    def row(
        self,
        input_ids: list[int],
        max_new_tokens: int,
        parameters: ParametersT,
        *,
        continues: bool = False,
        forced_bos_token_id: int | None = None,
    ) -> Row[Prompt]:
        """The row of a prompt whose lengths are settled.

        Args:
            continues: the answer continues the prompt's text.
            forced_bos_token_id: the answer's first token.

        Raises:
            InvalidRequest: `num_return_sequences` asks for more answers than there are.
        """
        count = parameters.num_return_sequences
        sampled = parameters.do_sample and parameters.temperature >= _LEAST_TEMPERATURE
        self._check_count(count, sampled)
        if parameters.min_new_tokens is None:
            min_new_tokens = self.generator.min_new_tokens(len(input_ids))
        else:
            min_new_tokens = parameters.min_new_tokens
        plan = Plan(
            sampling=(parameters.temperature, parameters.top_k, parameters.top_p) if sampled else None,
            sequences=count,
            min_new_tokens=min(min_new_tokens, max_new_tokens),
            repetition_penalty=parameters.repetition_penalty,
            forced_bos_token_id=forced_bos_token_id,
        )
        stop = (*parameters.stop, *self.generator.stop)
        tokenizer = self.pretrained.tokenizer
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)) if stop else {}
        prompt = Prompt(
            input_ids=input_ids,
            continues=continues,
            plan=plan,
            max_new_tokens=max_new_tokens,
            stop=stop,
            stop_ids=frozenset(special[string] for string in stop if string in special),
            seed=None if not sampled else secrets.randbits(63) if parameters.seed is None else parameters.seed,
        )
        cost = (len(input_ids) + max_new_tokens) * max(count, self.generator.beams)
        return Row(prompt, cost, self.generator.key(prompt))

    def _check_count(self, count: int, sampled: bool) -> None:
        beams = self.generator.beams
        if 1 < beams < count:
            raise InvalidRequest(
                f"parameters.num_return_sequences is {count} and this model, which searches with {beams} beams, gives "
                "no more than those"
            )
        if beams == 1 < count and not sampled:
            raise InvalidRequest(
                f"parameters.num_return_sequences is {count} and without sampling there is one answer: set "
                "parameters.do_sample to true, with a temperature above 0"
            )

"""What the tasks that write text have in common: parameters, defaults, and rules of length."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.generation import GenerationParameters
from runners.engines.generation_request import GenerationRequest, Sampling, SequenceOutput, TokenLogprob
from runners.engines.generator import DeltaMaker, GenerativeRunner, Generator
from runners.engines.rows import BatchLimits, Row
from runners.engines.runner import ExecutionPlan, Job
from runners.tasks.tokens import refuse_missing

logger = logging.getLogger(__name__)

#: New tokens where nothing bounds them, neither request nor context nor memory.
_UNLIMITED = 4096

#: Below this, sampling is greedy in all but rounding, and logits divided by it overflow at last.
_LEAST_TEMPERATURE = 1e-5


#: What a beam search, which is left to `model.generate`, has no place for.
_NOT_WITH_BEAMS = ("presence_penalty", "frequency_penalty", "logit_bias", "ignore_eos", "response_format", "logprobs")

ParametersT = TypeVar("ParametersT", bound=GenerationParameters)
ContextT = TypeVar("ContextT")


class GenerationRunner(GenerativeRunner[ParametersT, ContextT]):
    """A runner whose model writes one token after another."""

    #: Name of the AutoModel class of the task.
    auto_class: ClassVar[str]
    example = "Hello"
    # Two tokens, whatever the operator's max_length: it may be very large, or too small for the example.
    example_parameters: ClassVar[dict[str, Any]] = {"max_new_tokens": 2}

    def load(self) -> None:
        self.generator = self.create_generator()

    def create_generator(self) -> Generator:
        """Load the model with the engine that generates."""
        # Imported here: it needs torch, and another generator may not.
        from runners.engines.generate.transformers_generator import TransformersGenerator

        return TransformersGenerator(self.auto_class, self.settings, self.compiler, self.fallbacks)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the loaded checkpoint."""
        return self.generator.tokenizer

    @property
    def limits(self) -> BatchLimits:
        # The decoder has its own.
        return BatchLimits(max_rows=1 << 30, max_tokens=1 << 60)

    @property
    def execution_plan(self) -> ExecutionPlan:
        return self.generator.execution_plan

    @property
    def defaults(self) -> dict[str, Any]:
        settings = self.settings
        defaults = {
            "do_sample": settings.do_sample,
            "temperature": settings.temperature,
            "top_k": settings.top_k,
            "top_p": settings.top_p,
            "truncation": bool(settings.truncation),
        }
        if settings.explicit_max_length is not None:
            defaults["max_length"] = settings.explicit_max_length
        return defaults

    def weight(self, job: Job[GenerationRequest, ContextT]) -> tuple[int, int]:
        """As `Runner.weight`; sequences share their prompt, and new tokens are in memory once they are written."""
        return len(job.rows), len(job.rows[0].inputs.input_ids)

    def examples(self) -> Sequence[Any]:
        first = list(self.generator.tokenizer(self.example)["input_ids"])[:1]
        return (self.example, first) if first else (self.example,)

    def forward(self, rows: Sequence[Row[GenerationRequest]]) -> Sequence[SequenceOutput]:
        """Generate sequences in the calling thread.

        Raises:
            ServingError: one of them failed.
        """
        return self.generator.generate([row.inputs for row in rows])

    def deltas(self, job: Job[GenerationRequest, ContextT], number: int) -> DeltaMaker:
        """What makes the pieces of a stream of one of the job's sequences."""
        echo = self.echo(job.context)
        sequence = {"sequence": number} if len(job.rows) > 1 else {}

        def delta(text: str, logprobs: list[TokenLogprob], written: SequenceOutput | None) -> dict[str, Any] | None:
            nonlocal echo
            said: dict[str, Any] = {**sequence, "generated_text": echo + text}
            echo = ""
            if job.rows[0].inputs.logprobs is not None:
                said["logprobs"] = logprobs
            return said if written is None else said | self.counts(job, written)

        return delta

    def echo(self, context: ContextT) -> str:
        """What a stream begins with."""
        return ""

    def counts(self, job: Job[GenerationRequest, ContextT], written: SequenceOutput) -> dict[str, Any]:
        """Why a sequence has ended, and its numbers of tokens."""
        stopped_by = {"stop_sequence": written.stop_sequence} if written.stop_sequence is not None else {}
        return {
            "finish_reason": written.finish_reason,
            **stopped_by,
            "prompt_tokens": len(job.rows[0].inputs.input_ids),
            "cached_tokens": written.cached_tokens,
            "generated_tokens": len(written.tokens),
        }

    def details(self, job: Job[GenerationRequest, ContextT], written: SequenceOutput) -> dict[str, Any]:
        """What `parameters.details` adds to an answer."""
        logprobs = {"logprobs": written.logprobs} if written.logprobs is not None else {}
        return {**self.counts(job, written), **logprobs}

    def wanted_tokens(self, parameters: ParametersT, used: int, what: str) -> int:
        """New tokens that a request asks for, at least one; what the model's context allows is another matter.

        Args:
            used: tokens that `max_length` counts before the first new one.
            what: what they are, for the message.

        Raises:
            InvalidRequest: they fill `max_length`, are more than the operator allows, or fewer than `min_new_tokens`.
        """
        if parameters.max_new_tokens is not None:
            wanted = parameters.max_new_tokens
        elif parameters.max_length is not None and not parameters.fill_context:
            wanted = parameters.max_length - used
            if wanted < 1:
                raise InvalidRequest(
                    f"parameters.max_length is {parameters.max_length} tokens and {what} alone takes {used}: "
                    "raise parameters.max_length, or set parameters.max_new_tokens"
                )
        elif parameters.fill_context:
            wanted = self._filling(used)
        else:
            wanted = self.settings.max_length
        allowed = self.settings.max_new_tokens
        if allowed is not None and wanted > allowed:
            if parameters.max_new_tokens is not None:
                raise InvalidRequest(
                    f"parameters.max_new_tokens is {wanted} and this server allows {allowed} (MAX_NEW_TOKENS)",
                    field="parameters.max_new_tokens",
                    shows_field=False,
                )
            wanted = allowed
        if parameters.min_new_tokens is not None and parameters.min_new_tokens > wanted:
            raise InvalidRequest(
                f"parameters.min_new_tokens is {parameters.min_new_tokens} and the answer may have {wanted}",
                field="parameters.min_new_tokens",
                shows_field=False,
            )
        return wanted

    def _filling(self, used: int) -> int:
        limits = [
            limit for limit in (self.generator.max_length, self.generator.max_sequence_tokens) if limit is not None
        ]
        return max(min(limits, default=used + _UNLIMITED) - used, 1)

    def rows(
        self,
        input_ids: list[int],
        max_new_tokens: int,
        parameters: ParametersT,
        *,
        continues: bool = False,
        forced_bos_token_id: int | None = None,
        grammar: Any = None,
    ) -> list[Row[GenerationRequest]]:
        """The rows of a prompt whose lengths are settled, one for each sequence.

        Args:
            continues: the answer continues the prompt's text.
            forced_bos_token_id: the answer's first token.
            grammar: what the answer must conform to, if the task and not `response_format` says it.

        Raises:
            InvalidRequest: the model lacks a token of the prompt, `num_return_sequences` asks for more answers than
                there are, a parameter does not go with the model, or the answer needs more memory than there is.
        """
        refuse_missing(input_ids, self.generator.missing_tokens)
        sampled = parameters.do_sample and parameters.temperature >= _LEAST_TEMPERATURE
        count = parameters.num_return_sequences
        self._check_count(count, sampled)
        if count > 1:
            self.check_rows(count, len(input_ids), "parameters.num_return_sequences", f"{count} are asked for")
        self._check_beams(parameters)
        self._check_memory(len(input_ids), max_new_tokens)
        if parameters.min_new_tokens is None:
            min_new_tokens = self.generator.min_new_tokens(len(input_ids))
        else:
            min_new_tokens = parameters.min_new_tokens
        stop = (*parameters.stop, *self.generator.stop)
        tokenizer = self.generator.tokenizer
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)) if stop else {}
        if grammar is None and parameters.response_format is not None:
            grammar = self.generator.grammars.response_format(parameters.response_format)
        if parameters.logprobs is not None:
            self.generator.grammars.prepare()
        request = GenerationRequest(
            input_ids=input_ids,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min(min_new_tokens, max_new_tokens),
            repetition_penalty=parameters.repetition_penalty,
            presence_penalty=parameters.presence_penalty,
            frequency_penalty=parameters.frequency_penalty,
            logit_bias=self._logit_bias(parameters.logit_bias),
            logprobs=parameters.logprobs,
            stop=stop,
            stop_ids={special[string]: string for string in stop if string in special},
            ignore_eos=parameters.ignore_eos,
            continues=continues,
            forced_bos_token_id=forced_bos_token_id,
            grammar=grammar,
        )
        seed = secrets.randbits(62) if parameters.seed is None else parameters.seed
        if sampled:
            # More tokens than there are mean all, and no number of torch's holds some that JSON does.
            top_k = min(parameters.top_k, self.generator.vocabulary)
            sampling = Sampling(parameters.temperature, top_k, parameters.top_p, seed)
            request = replace(request, sampling=sampling)
        requests = [request]
        for number in range(1, parameters.num_return_sequences):
            # Sequences of one beam search belong together and are told by their common request.
            beams = self.generator.beams > 1
            requests.append(request if beams else replace(request, sampling=replace(sampling, seed=seed + number)))
        return [Row(request, len(input_ids) + max_new_tokens) for request in requests]

    def _check_count(self, count: int, sampled: bool) -> None:
        beams = self.generator.beams
        if 1 < beams < count:
            raise InvalidRequest(
                f"parameters.num_return_sequences is {count} and this model, which searches with {beams} beams, gives "
                "no more than those",
                field="parameters.num_return_sequences",
                shows_field=False,
            )
        if beams == 1 < count and not sampled:
            raise InvalidRequest(
                f"parameters.num_return_sequences is {count} and without sampling there is one answer: set "
                "parameters.do_sample to true, with a temperature above 0",
                field="parameters.num_return_sequences",
                shows_field=False,
            )

    def _check_beams(self, parameters: ParametersT) -> None:
        if self.generator.beams > 1:
            for name in _NOT_WITH_BEAMS:
                if getattr(parameters, name) not in (None, 0.0, {}, False):
                    raise InvalidRequest(
                        f"this model searches with beams, which knows no {name}", field=f"parameters.{name}"
                    )

    def _check_memory(self, prompt_tokens: int, new_tokens: int) -> None:
        memory = self.generator.max_sequence_tokens
        if memory is not None and prompt_tokens + new_tokens > memory:
            raise InvalidRequest(
                f"the prompt has {prompt_tokens} tokens and the answer may have {new_tokens}, and the server has "
                f"memory for {memory} (KV_CACHE_MEMORY): shorten the prompt, or ask for fewer new tokens"
            )

    def _logit_bias(self, given: Mapping[str, float]) -> dict[int, float]:
        bias = {int(token): value for token, value in given.items()}
        for token in bias:
            if token >= self.generator.vocabulary:
                raise InvalidRequest(
                    f"the model's tokens go up to {self.generator.vocabulary - 1}",
                    field=f"parameters.logit_bias.{token}",
                )
        return bias

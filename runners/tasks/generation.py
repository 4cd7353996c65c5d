"""Base class of the generative tasks: parameters, defaults and length limits."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.errors import ContextLengthExceeded, InvalidRequest
from hf_runtime.contract.generation import GenerationParameters
from hf_runtime.contract.tokenization import TokenizerAnswer, TokenizerRequest
from runners.engines.generation_request import GenerationRequest, Sampling, SequenceOutput, TokenLogprob
from runners.engines.generator import DeltaMaker, GenerativeRunner, Generator
from runners.engines.rows import BatchLimits, Row
from runners.engines.runner import ExecutionPlan, Job
from runners.tasks.tokenizing import use_tokenizer
from runners.tasks.tokens import reject_missing_tokens

#: Maximum number of new tokens if no request, context or memory limits them.
_UNLIMITED = 4096

#: Below this temperature, sampling is greedy except for rounding, and dividing the logits by it may overflow.
_MIN_TEMPERATURE = 1e-5

#: Parameters that beam search does not support, because it runs in `model.generate`.
_NOT_WITH_BEAMS = (
    "presence_penalty", "frequency_penalty", "logit_bias", "ignore_eos", "response_format", "structured_outputs",
    "logprobs",
)  # fmt: skip

ParametersT = TypeVar("ParametersT", bound=GenerationParameters)
ContextT = TypeVar("ContextT")


class GenerationRunner(GenerativeRunner[ParametersT, ContextT]):
    """Runner of a model that generates one token after another."""

    #: Name of the task's AutoModel class.
    auto_class: ClassVar[str]
    example = "Hello"
    # Independent of the operator's max_length, which may be very large, or too small for the example.
    example_parameters: ClassVar[dict[str, Any]] = {"max_new_tokens": 2}

    def load(self) -> None:
        self.generator = self.create_generator()

    def create_generator(self) -> Generator:
        """Load the model, and return it with its engine."""
        # Imported here, because it needs torch, and another generator may not.
        from runners.engines.generate.transformers_generator import TransformersGenerator

        return TransformersGenerator(self.auto_class, self.settings, self.compiler, self.fallbacks)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the loaded checkpoint."""
        return self.generator.tokenizer

    def tokenize(self, request: TokenizerRequest) -> TokenizerAnswer:
        generator = self.generator
        vocabulary = max(generator.input_vocabulary, generator.vocabulary)
        return use_tokenizer(generator.tokenizer, request, max_length=generator.max_length, vocabulary=vocabulary)

    @property
    def limits(self) -> BatchLimits:
        # Unlimited, because the decoder has its own limits.
        return BatchLimits(max_rows=1 << 30, max_tokens=1 << 60)

    @property
    def execution_plan(self) -> ExecutionPlan:
        return self.generator.execution_plan

    @property
    def context_length(self) -> int | None:
        limits = (self.generator.max_length, self.generator.max_sequence_tokens)
        return min((limit for limit in limits if limit is not None), default=None)

    @cached_property
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
        """Return the rows of a job, and the tokens of its prompt.

        All sequences share the prompt, and new tokens take no memory before they are generated.
        """
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

    def create_delta_maker(self, job: Job[GenerationRequest, ContextT], number: int) -> DeltaMaker:
        """Return the function that makes the deltas of one of the job's sequences."""
        echo = self.get_echo(job.context)
        sequence = {"sequence": number} if len(job.rows) > 1 else {}

        def make_delta(text: str, logprobs: list[TokenLogprob], output: SequenceOutput | None) -> dict[str, Any] | None:
            nonlocal echo
            delta: dict[str, Any] = {**sequence, "generated_text": echo + text}
            echo = ""
            if job.rows[0].inputs.logprobs is not None:
                delta["logprobs"] = logprobs
            return delta if output is None else delta | self.build_usage(job, output)

        return make_delta

    def get_echo(self, context: ContextT) -> str:
        """Return the text that a stream begins with."""
        return ""

    def build_usage(self, job: Job[GenerationRequest, ContextT], output: SequenceOutput) -> dict[str, Any]:
        """Return the finish reason and token counts of a sequence."""
        stopped_by = {"stop_sequence": output.stop_sequence} if output.stop_sequence is not None else {}
        return {
            "finish_reason": output.finish_reason,
            **stopped_by,
            "prompt_tokens": len(job.rows[0].inputs.input_ids),
            "cached_tokens": output.cached_tokens,
            "generated_tokens": len(output.tokens),
        }

    def build_details(self, job: Job[GenerationRequest, ContextT], output: SequenceOutput) -> dict[str, Any]:
        """Return the fields that `parameters.details` adds to an answer."""
        details = self.build_usage(job, output)
        if output.logprobs is not None:
            details["logprobs"] = output.logprobs
        if output.prompt_logprobs is not None:
            details["prompt_logprobs"] = output.prompt_logprobs
        return details

    def resolve_max_new_tokens(self, parameters: ParametersT, used: int, what: str) -> int:
        """Return the maximum number of new tokens that a request sets, at least one.

        The model's context is not considered, except with `fill_context`.

        Args:
            used: tokens before the first new one that `max_length` includes.
            what: name of these tokens, for the message.

        Raises:
            InvalidRequest: `max_length` leaves no new token, or the number is more than the operator allows or less
                than `min_new_tokens`.
        """
        if parameters.max_new_tokens is not None:
            max_new_tokens = parameters.max_new_tokens
        elif parameters.max_length is not None and not parameters.fill_context:
            max_new_tokens = parameters.max_length - used
            if max_new_tokens < 1:
                raise InvalidRequest(
                    f"parameters.max_length is {parameters.max_length} tokens and {what} alone takes {used}: "
                    "raise parameters.max_length, or set parameters.max_new_tokens"
                )
        elif parameters.fill_context:
            max_new_tokens = self._count_free_tokens(used)
        else:
            max_new_tokens = self.settings.max_length
        allowed = self.settings.max_new_tokens
        if allowed is not None and max_new_tokens > allowed:
            if parameters.max_new_tokens is not None:
                raise InvalidRequest(
                    f"parameters.max_new_tokens is {max_new_tokens} and this server allows {allowed} (MAX_NEW_TOKENS)",
                    field="parameters.max_new_tokens",
                    shows_field=False,
                )
            max_new_tokens = allowed
        if parameters.min_new_tokens is not None and parameters.min_new_tokens > max_new_tokens:
            raise InvalidRequest(
                f"parameters.min_new_tokens is {parameters.min_new_tokens} and the answer may have {max_new_tokens}",
                field="parameters.min_new_tokens",
                shows_field=False,
            )
        return max_new_tokens

    def _count_free_tokens(self, used: int) -> int:
        limits = [
            limit for limit in (self.generator.max_length, self.generator.max_sequence_tokens) if limit is not None
        ]
        return max(min(limits, default=used + _UNLIMITED) - used, 1)

    def build_rows(
        self,
        input_ids: list[int],
        max_new_tokens: int,
        parameters: ParametersT,
        *,
        continues: bool = False,
        forced_bos_token_id: int | None = None,
        grammar: Any = None,
        wrap_grammar: Callable[[str], str] | None = None,
        end_ids: frozenset[int] = frozenset(),
        visible_ids: frozenset[int] = frozenset(),
    ) -> list[Row[GenerationRequest]]:
        """Return the rows of a prompt, one per sequence.

        Args:
            input_ids: prompt, already cut to the model's maximum length.
            continues: the answer continues the prompt's text.
            forced_bos_token_id: first token of the answer.
            grammar: grammar of the answer, if the task defines it instead of `response_format`.
            wrap_grammar: returns the grammar of the answer from that of its content, which `response_format` defines.
            end_ids, visible_ids: as in `GenerationRequest`.

        Raises:
            InvalidRequest: the model lacks a token of the prompt, `num_return_sequences` is too large, the model does
                not support a parameter, or the answer does not fit into memory.
        """
        reject_missing_tokens(input_ids, self.generator.missing_tokens)
        sampled = parameters.do_sample and parameters.temperature >= _MIN_TEMPERATURE
        count = parameters.num_return_sequences
        self._check_count(count, sampled)
        if count > 1:
            self.check_rows(count, len(input_ids), "parameters.num_return_sequences", f"{count} are asked for")
        self._check_beams(parameters)
        self._check_stop_token_ids(parameters)
        self._check_prompt_logprobs(parameters, input_ids)
        self._check_memory(len(input_ids), max_new_tokens)
        if parameters.min_new_tokens is None:
            min_new_tokens = self.generator.min_new_tokens(len(input_ids))
        else:
            min_new_tokens = parameters.min_new_tokens
        stop = (*parameters.stop, *self.generator.stop)
        tokenizer = self.generator.tokenizer
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)) if stop else {}
        if grammar is None:
            grammar = self._create_format_grammar(parameters, wrap_grammar)
        if parameters.logprobs is not None or parameters.prompt_logprobs is not None:
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
            prompt_logprobs=parameters.prompt_logprobs,
            stop=stop,
            stop_ids={special[string]: string for string in stop if string in special},
            stop_token_ids=frozenset(parameters.stop_token_ids),
            includes_stop=parameters.include_stop_str_in_output,
            skips_special_tokens=parameters.skip_special_tokens,
            length_penalty=parameters.length_penalty if self.generator.beams > 1 else None,
            ignore_eos=parameters.ignore_eos,
            continues=continues,
            forced_bos_token_id=forced_bos_token_id,
            grammar=grammar,
            end_ids=end_ids,
            visible_ids=visible_ids,
        )
        seed = secrets.randbits(62) if parameters.seed is None else parameters.seed
        if sampled:
            # JSON integers may exceed torch's; more tokens than the vocabulary has mean all tokens.
            top_k = min(parameters.top_k, self.generator.vocabulary)
            sampling = Sampling(parameters.temperature, top_k, parameters.top_p, seed, parameters.min_p)
            request = replace(request, sampling=sampling)
        requests = [request]
        for number in range(1, parameters.num_return_sequences):
            # Sequences of one beam search share their request, by which the generator groups them.
            uses_beams = self.generator.beams > 1
            requests.append(request if uses_beams else replace(request, sampling=replace(sampling, seed=seed + number)))
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

    def _create_format_grammar(self, parameters: ParametersT, wrap: Callable[[str], str] | None) -> Any:
        """Compile the grammar of the answer's format; None for free text.

        Args:
            wrap: returns the grammar of the answer from that of its content; None if they are the same.
        """
        outputs, format_ = parameters.structured_outputs, parameters.response_format
        wrapping = () if wrap is None else (wrap,)
        if outputs is None:
            return None if format_ is None else self.generator.grammars.response_format(format_, *wrapping)
        if format_ not in (None, {"type": "text"}):
            raise InvalidRequest("not together with parameters.response_format", field="parameters.structured_outputs")
        return self.generator.grammars.structured_outputs(outputs, *wrapping)

    def _check_stop_token_ids(self, parameters: ParametersT) -> None:
        for index, token in enumerate(parameters.stop_token_ids):
            if token >= self.generator.vocabulary:
                raise InvalidRequest(
                    f"the model's tokens go up to {self.generator.vocabulary - 1}",
                    field=f"parameters.stop_token_ids[{index}]",
                )

    def _check_beams(self, parameters: ParametersT) -> None:
        if self.generator.beams == 1:
            if parameters.length_penalty not in (None, 1.0):
                raise InvalidRequest(
                    "this model does not search with beams, so that it can only be 1", field="parameters.length_penalty"
                )
            if parameters.use_beam_search:
                raise InvalidRequest(
                    "this model's generation config sets no beams to search with", field="parameters.use_beam_search"
                )
        if self.generator.beams > 1:
            for name in _NOT_WITH_BEAMS:
                if getattr(parameters, name) not in (None, 0.0, {}, False):
                    raise InvalidRequest(
                        f"this model searches with beams, which knows no {name}", field=f"parameters.{name}"
                    )

    def _check_prompt_logprobs(self, parameters: ParametersT, input_ids: list[int]) -> None:
        if parameters.prompt_logprobs is not None and max(input_ids) >= self.generator.vocabulary:
            raise InvalidRequest(
                f"the prompt has a token that the model reads and never generates, {max(input_ids)}",
                field="parameters.prompt_logprobs",
            )

    def _check_memory(self, prompt_tokens: int, new_tokens: int) -> None:
        memory = self.generator.max_sequence_tokens
        if memory is not None and prompt_tokens + new_tokens > memory:
            raise ContextLengthExceeded(
                f"this model's maximum context length is {memory} tokens here, because the server has memory for "
                f"{memory} (KV_CACHE_MEMORY); the prompt has {prompt_tokens} tokens and the answer may have "
                f"{new_tokens}: shorten the prompt, or ask for fewer new tokens"
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

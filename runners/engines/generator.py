"""Interface between generative tasks and the engines that generate.

Token ids go in, and text comes out.

Chat templates, tools, limits and defaults belong to the tasks. An engine knows prompts as token ids, sampling
parameters, grammars and stop strings; it loads no other module of `runners.tasks`, and its users load no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hf_runtime.contract.errors import ServingError
from hf_runtime.contract.generation import StructuredOutputs
from hf_runtime.contract.parameters import Parameters
from hf_runtime.contract.request_context import RequestContext
from hf_runtime.observability.engine_observer import EngineObserver
from runners.engines.generation_request import (
    FinishReason,
    GenerationRequest,
    PromptTokenLogprob,
    SequenceOutput,
    TokenLogprob,
)
from runners.engines.runner import ExecutionPlan, Job, Runner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ParametersT = TypeVar("ParametersT", bound=Parameters)
ContextT = TypeVar("ContextT")

#: Function that makes the next delta of a stream, or None, from new text, new log probabilities and, at the end, the
#: whole output.
DeltaMaker = Callable[[str, list[TokenLogprob], SequenceOutput | None], dict[str, Any] | None]


class Grammars(Protocol):
    """Compiler of grammars for the vocabulary of a model; used by the thread that tokenizes."""

    def prepare(self) -> None:
        """Read the vocabulary now, so that the next grammar does not wait for it."""

    def compile(self, grammar: str, field: str = "grammar") -> Any:
        """Compile a grammar in llguidance's lark.

        Args:
            field: the field of the request that the grammar comes from.

        Raises:
            InvalidRequest: the grammar is wrong, or too large.
        """

    def response_format(self, given: Mapping[str, Any], wrap: Callable[[str], str] = ...) -> Any:
        """Compile an OpenAI API's `response_format`; None for free text.

        Args:
            wrap: returns the grammar of the answer from that of its content.

        Raises:
            InvalidRequest: as `compile`; names the wrong field.
        """

    def structured_outputs(self, given: StructuredOutputs, wrap: Callable[[str], str] = ...) -> Any:
        """Compile vLLM's `structured_outputs`.

        Raises:
            InvalidRequest: as `compile`; names the wrong field.
        """


class RunningSequence(Protocol):
    """A sequence that an engine generates.

    Attributes:
        started: time of its first step by `monotonic`; None while it waits.
        tokens: new tokens so far.
        cached_tokens: tokens of the prompt that were not computed again.
        prompt_logprobs: complete before the first update, if the request asks for them.
        finish_reason: None until it is complete.
        cancelled: set it, and the engine drops the sequence.
    """

    request: GenerationRequest
    started: float | None
    tokens: list[int]
    cached_tokens: int
    prompt_logprobs: list[PromptTokenLogprob]
    finish_reason: FinishReason | None
    cancelled: bool


@dataclass(frozen=True, slots=True)
class SequenceUpdate:
    """Progress of one sequence.

    Attributes:
        delta: text and log probabilities that are new; None without new text, or if the sequence is not streamed.
        output: the whole sequence if it is complete.
        error: the error that ended it.
        tokens: its new tokens so far.
        time: time of the update by `monotonic`.
    """

    sequence: RunningSequence
    delta: tuple[str, list[TokenLogprob]] | None
    output: SequenceOutput | None
    error: ServingError | None
    tokens: int
    time: float


class TokenEngine(ABC):
    """Engine that generates many sequences in parallel, for one event loop.

    Attributes:
        on_start: called in the event loop when the first step of a sequence has begun, with its time.
        on_updates: called in the event loop with the progress of some sequences.
    """

    on_start: Callable[[RunningSequence, float], None]
    on_updates: Callable[[Sequence[SequenceUpdate]], None]

    @abstractmethod
    def add(
        self, requests: Sequence[GenerationRequest], context: RequestContext | None, *, streamed: bool
    ) -> Sequence[RunningSequence]:
        """Queue the sequences of one item: all of them or none.

        Args:
            context: the HTTP request, for the log.
            streamed: updates carry deltas.

        Raises:
            ServingError: a sequence cannot be generated.
        """

    @abstractmethod
    async def run(self) -> None:
        """Generate until cancelled."""


class Generator(ABC):
    """A loaded generative model with its engine.

    Attributes:
        tokenizer: for the thread that tokenizes.
        max_length: tokens of a prompt and its answer, or of the prompt alone for an encoder-decoder; None if unlimited.
        max_output_length: tokens of the decoder, its start included; None if it has no limit of its own.
        input_vocabulary: number of tokens that the model takes.
        vocabulary: number of tokens that it generates.
        missing_tokens: tokens of the tokenizer that the model lacks, by id.
        beams: number of beams that the checkpoint sets; 1 without beam search.
        stop: stop strings of the checkpoint.
        grammars: compiler of the model's grammars.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    max_output_length: int | None
    input_vocabulary: int
    vocabulary: int
    missing_tokens: Mapping[int, str]
    beams: int
    stop: tuple[str, ...]
    grammars: Grammars

    @property
    @abstractmethod
    def max_sequence_tokens(self) -> int | None:
        """The longest sequence in tokens that fits into memory; None without a limit."""

    @property
    @abstractmethod
    def execution_plan(self) -> ExecutionPlan:
        """Batch sizes and threads for this machine."""

    @abstractmethod
    def min_new_tokens(self, prompt_length: int) -> int:
        """Return the least number of new tokens that the checkpoint sets."""

    @abstractmethod
    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[SequenceOutput]:
        """Generate sequences in the calling thread, while no engine runs.

        Raises:
            ServingError: one of them failed.
        """

    @abstractmethod
    def create_engine(self, compute: ThreadPoolExecutor, observer: EngineObserver) -> TokenEngine:
        """Create the engine in the running event loop.

        Args:
            compute: the thread that computes.
        """


class GenerativeRunner(Runner[ParametersT, GenerationRequest, ContextT, SequenceOutput]):
    """Runner whose rows are prompts for a generator.

    Attributes:
        generator: set by `load`.
    """

    generator: Generator

    @abstractmethod
    def create_delta_maker(self, job: Job[GenerationRequest, ContextT], number: int) -> DeltaMaker:
        """Return the function that makes the deltas of one of the job's sequences."""

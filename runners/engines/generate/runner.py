"""The interface of a task that generates, as the generation engine uses it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from hf_runtime.contract.parameters import Parameters
from runners.engines.generate.decoder import Decoder
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.request import GenerationRequest, SequenceOutput, TokenLogprob
from runners.engines.runner import Job, Runner

ParametersT = TypeVar("ParametersT", bound=Parameters)
ContextT = TypeVar("ContextT")

#: Function that makes the next delta of a stream, or None, from new text, new log probabilities and, at the end, the
#: whole output.
DeltaMaker = Callable[[str, list[TokenLogprob], SequenceOutput | None], dict[str, Any] | None]


class GenerativeRunner(Runner[ParametersT, GenerationRequest, ContextT, SequenceOutput]):
    """Runner whose rows are prompts and whose decoder generates the answers.

    Attributes:
        model: set by `load`.
        decoder: generates all sequences; set by `load`.
    """

    model: GenerationModel
    decoder: Decoder

    @abstractmethod
    def deltas(self, job: Job[GenerationRequest, ContextT], number: int) -> DeltaMaker:
        """Return the function that makes the deltas of one of the job's sequences."""

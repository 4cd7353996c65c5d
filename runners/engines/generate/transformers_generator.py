"""Generator that computes with transformers and this project's decoders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import transformers

from hf_runtime.observability.engine_observer import EngineObserver
from hf_runtime.settings import ModelSettings
from runners.engines.generate.continuous import ContinuousDecoder
from runners.engines.generate.decoder_loop import DecoderLoop
from runners.engines.generate.decoders import create_decoder
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.sequence import SequenceState
from runners.engines.generation_request import GenerationRequest, SequenceOutput
from runners.engines.generator import Generator
from runners.engines.runner import ExecutionPlan
from runners.kernels.cores import count_available_cores
from runners.kernels.fallbacks import Fallbacks
from runners.models.lengths import find_output_limit
from runners.models.pretrained import Pretrained, load_pretrained
from runners.storage.fetch import fetch

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler

logger = logging.getLogger(__name__)


class TransformersGenerator(Generator):
    """Generator of a transformers model.

    Attributes:
        pretrained: the loaded checkpoint.
        model: the model with the rules of its checkpoint.
        decoder: steps all sequences.

    Args:
        auto_class: name of the AutoModel class of the task.
    """

    def __init__(
        self, auto_class: str, settings: ModelSettings, compiler: Compiler | None, fallbacks: Fallbacks
    ) -> None:
        self._settings = settings
        self.pretrained: Pretrained = load_pretrained(
            getattr(transformers, auto_class), fetch(settings), settings, compiler, fallbacks=fallbacks
        )
        self.model = GenerationModel(self.pretrained)
        self.decoder = create_decoder(self.model, settings, fallbacks)
        if settings.attn_implementation is not None and isinstance(self.decoder, ContinuousDecoder):
            # Batches that start together would use it, and lose far more than any attention gains.
            logger.warning(
                "%s: its attention is computed in steps that sequences share, not by ATTN_IMPLEMENTATION=%s.",
                settings.name, settings.attn_implementation,
            )  # fmt: skip
        self.tokenizer = self.pretrained.tokenizer
        self.max_length = self.pretrained.max_length
        self.max_output_length = find_output_limit(self.pretrained.model) if self.model.seq2seq else None
        self.input_vocabulary, self.vocabulary = self.pretrained.tokens, self.model.vocabulary
        self.missing_tokens = self.pretrained.missing
        self.beams, self.stop, self.grammars = self.model.beams, self.model.stop, self.model.grammars

    @property
    def max_sequence_tokens(self) -> int | None:
        return self.decoder.memory

    @property
    def execution_plan(self) -> ExecutionPlan:
        limits = self.decoder.limits
        return ExecutionPlan(limits.max_rows, limits.max_tokens, threads=self._threads)

    @property
    def _threads(self) -> int | None:
        """Threads of one step; None leaves the number to the library."""
        if self.model.device.type != "cpu" or not self._settings.acceleration:
            return None
        return self._settings.torch_threads or count_available_cores(self._settings.cpus)

    def min_new_tokens(self, prompt_length: int) -> int:
        """As `Generator`."""
        return self.model.min_new_tokens(prompt_length)

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[SequenceOutput]:
        """As `Generator`."""
        sequences = [SequenceState(request, self.model) for request in requests]
        for sequence in sequences:
            self.decoder.add(sequence)
        while self.decoder.busy:
            self.decoder.step()
        for sequence in sequences:
            if sequence.error is not None:
                raise sequence.error
        return [sequence.output for sequence in sequences]

    def create_engine(self, compute: ThreadPoolExecutor, observer: EngineObserver) -> DecoderLoop:
        """As `Generator`."""
        return DecoderLoop(self._settings.name, self.model, self.decoder, compute, observer, self._threads)

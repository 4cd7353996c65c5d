"""Incremental decoding of a model over many sequences, verified numerically at load time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from inspect import signature
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch

from runners.engines.generate.attention import NAME, Attention, Probe, UnsupportedAttention
from runners.engines.generate.cache import CacheSlot, KVCache, LayerShape
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.step import Step
from runners.engines.generate.step_graphs import SIZES, StepGraphs
from runners.kernels.capture import is_on_one_gpu
from runners.kernels.fallbacks import DifferentResults, Fallbacks, Optimization
from runners.kernels.int8 import has_int8_layers
from runners.kernels.rounding import is_within_rounding

if TYPE_CHECKING:
    from runners.kernels.kernels import Kernels

logger = logging.getLogger(__name__)

#: Lengths of the trial prompts in tokens: different ones, so that a wrong position shows.
_LENGTHS = (7, 4)


class IncrementalModel:
    """Model whose forward pass computes a `Step`.

    Args:
        fallbacks: record layers and graphs that fail.
        kernels: compute attention and fused layers; without them PyTorch does.
        graphs: on a GPU, compute steps of few tokens as CUDA graphs where the model can be captured.
        max_logits: the largest number of logits rows that a step needs.

    Raises:
        UnsupportedAttention: the model cannot be decoded incrementally.
        Exception: incremental decoding fails, or its results differ (`DifferentResults`).
    """

    def __init__(
        self,
        model: GenerationModel,
        fallbacks: Fallbacks,
        *,
        kernels: Kernels | None = None,
        graphs: bool = False,
        max_logits: int = 256,
    ) -> None:
        self._model: Any = model.model
        self.device = model.device
        self._kernels, self._fallbacks = kernels, fallbacks
        self._tokens = model.tokens
        parameters = signature(self._model.forward).parameters
        if "position_ids" not in parameters:
            raise UnsupportedAttention("it does not take positions")
        self._keeps_logits = "logits_to_keep" in parameters
        if model.rope_limit is not None:
            raise UnsupportedAttention(
                f"sequences of more than {model.rope_limit} tokens change the positions of others"
            )
        if not getattr(self._model, "_supports_attention_backend", False):
            raise UnsupportedAttention("its attention cannot be replaced")
        self._graphs: StepGraphs | None = None
        self._int8 = has_int8_layers(self._model)
        with torch.inference_mode():
            prompts = self._make_prompts()
            expected = [self._compute_expected(prompt) for prompt in prompts]
            previous = self._model.config._attn_implementation
            self._model.set_attn_implementation(NAME)
            try:
                self.layers = self._probe_layers(prompts[0])
                self._compare(prompts, expected)
                self._fuse_layers(prompts, expected)
            except BaseException:
                self._model.set_attn_implementation(previous)
                raise
            if graphs and is_on_one_gpu(self._model):
                self._use_graphs(max_logits, prompts, expected)

    @property
    def has_graphs(self) -> bool:
        """True if steps of few tokens run as CUDA graphs."""
        return self._graphs is not None

    def new_step(
        self, decoding: Sequence[tuple[CacheSlot, int]], prefill: Sequence[tuple[CacheSlot, Sequence[int]]]
    ) -> Step:
        """Create the step that `forward` computes; the arguments are those of `Step`."""
        return Step(decoding, prefill, self.device, self._kernels)

    def forward(self, step: Step, wanted: torch.Tensor) -> torch.Tensor:
        """Return the logits of the tokens at the indices `wanted`.

        Returns:
            Shape (wanted, vocabulary); valid until the next step.
        """
        logits = self._graphs.compute(step, wanted) if self._graphs is not None else None
        return self._forward(step, step.input_ids, step.position_ids, wanted) if logits is None else logits

    def _forward(
        self, step: Attention, ids: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        options: dict[str, Any] = {"logits_to_keep": wanted} if self._keeps_logits else {}
        logits = self._model(input_ids=ids, position_ids=positions, use_cache=False, step=step, **options).logits[0]
        return logits if self._keeps_logits else logits[wanted]  # type: ignore[no-any-return]

    def _use_graphs(self, max_logits: int, prompts: Sequence[Sequence[int]], expected: Sequence[torch.Tensor]) -> None:
        """Use CUDA graphs if the model can be captured and the graphs give the same logits."""
        started = monotonic()
        graphs = None
        with self._fallbacks.guard(Optimization.GRAPHS):
            self._graphs = StepGraphs(self._forward, self.device, tokens=max(SIZES), wanted=max_logits)
            self._compare(prompts, expected)
            graphs = self._graphs
        self._graphs = graphs
        if graphs is not None:
            logger.info(
                "Captured CUDA graphs for steps of up to %d tokens in %.1f s.", max(SIZES), monotonic() - started
            )

    def _fuse_layers(self, prompts: Sequence[Sequence[int]], expected: Sequence[torch.Tensor]) -> None:
        """Compute all layers as one program if it gives the same logits."""
        if self._kernels is None:
            return
        # Imported here because these modules need the kernel compiler.
        from runners.engines.generate.fused_layers import fused_layers
        from runners.kernels.program_builder import install_if_equivalent

        with self._fallbacks.guard(Optimization.PROGRAM):
            found = fused_layers(self._model, self.layers, self._specs, self._kernels)
            install_if_equivalent(found, lambda: self._compare(prompts, expected))

    def _make_prompts(self) -> list[list[int]]:
        return [[(3 + 5 * i + number) % self._tokens for i in range(n)] for number, n in enumerate(_LENGTHS)]

    def _compute_expected(self, prompt: Sequence[int]) -> torch.Tensor:
        """Return the logits of a prompt and one more token, computed by the model's own attention."""
        ids = torch.tensor([[*prompt, prompt[0]]], device=self.device)
        return self._model(input_ids=ids, use_cache=False).logits[0]  # type: ignore[no-any-return]

    def _probe_layers(self, prompt: Sequence[int]) -> list[LayerShape]:
        probe = Probe()
        ids = torch.tensor([prompt], device=self.device)
        self._forward(probe, ids, torch.arange(len(prompt), device=self.device)[None], torch.tensor([0]))
        config = self._model.config.get_text_config(decoder=True)
        if sorted(probe.layers) != list(range(config.num_hidden_layers)):
            raise UnsupportedAttention("not all of its layers are attention")
        kinds = set(getattr(config, "layer_types", None) or ())
        if not kinds <= {"full_attention", "sliding_attention"}:
            raise UnsupportedAttention(f"its layers are of the kinds {', '.join(sorted(kinds))}")
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        if ("sliding_attention" in kinds or (window and not kinds)) and not probe.has_windows:
            raise UnsupportedAttention("its attention layers do not report their window")
        self._specs = probe.specs
        return [probe.layers[i] for i in range(config.num_hidden_layers)]

    def _compare(self, prompts: Sequence[Sequence[int]], expected: Sequence[torch.Tensor]) -> None:
        """Compare the logits of two prompts, and of one more token of each, with the expected ones.

        The prompts are prefilled in one batch, the longer one in two chunks.

        Raises:
            DifferentResults: the logits differ by more than rounding.
        """
        cache = KVCache(self.layers, budget=1 << 16, slab_tokens=256, max_rows=2, max_length=128)
        slots = [cache.allocate(len(prompt) + 1) for prompt in prompts]
        first, second = (slot for slot in slots if slot is not None)
        assert first.slab is second.slab, "this is a bug: two short sequences do not share a slab"
        (long, short), cut = prompts, len(prompts[0]) // 2
        self._check_step([], [(first, long[:cut]), (second, short)], expected)
        self._check_step([], [(first, long[cut:])], expected)
        self._check_step([(first, long[0]), (second, short[0])], [], expected)

    def _check_step(self, decoding: Any, prefill: Any, expected: Sequence[torch.Tensor]) -> None:
        step = self.new_step(decoding, prefill)
        logits = self.forward(step, step.ends)
        expected_rows = []
        for slot, tokens in [*decoding, *prefill]:
            slot.length += 1 if isinstance(tokens, int) else len(tokens)
            expected_rows.append(expected[slot.index][slot.length - 1])
        if not is_within_rounding(list(logits), expected_rows, self._model.dtype, int8=self._int8):
            raise DifferentResults

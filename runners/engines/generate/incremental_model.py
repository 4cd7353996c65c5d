"""Whether a model can be computed step by step with sequences side by side; seen by trying, not by its name."""

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
from runners.kernels.capture import on_one_gpu
from runners.kernels.fallbacks import DifferentResults, Fallbacks, Optimization
from runners.kernels.int8 import has_int8_layers
from runners.kernels.rounding import is_rounding

if TYPE_CHECKING:
    from runners.kernels.kernels import Kernels

logger = logging.getLogger(__name__)

#: Prompts of the trial, of different lengths; any tokens will do.
_LENGTHS = (7, 4)


class IncrementalModel:
    """The forward pass of a model over a `Step`.

    Args:
        fallbacks: are told of layers and graphs that fail.
        kernels: for attention and for layers as one program; None computes them by PyTorch.
        graphs: on a GPU, compute steps of few tokens as CUDA graphs where that can be done.
        most_wanted: the most logits that a step asks for.

    Raises:
        Unsupported: the model cannot be computed this way.
        Exception: computed this way it gives other results (`DifferentResults`), or none.
    """

    def __init__(
        self,
        model: GenerationModel,
        fallbacks: Fallbacks,
        *,
        kernels: Kernels | None = None,
        graphs: bool = False,
        most_wanted: int = 256,
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
            prompts = self._prompts()
            expected = [self._plain(prompt) for prompt in prompts]
            previous = self._model.config._attn_implementation
            self._model.set_attn_implementation(NAME)
            try:
                self.layers = self._probe(prompts[0])
                self._compare(prompts, expected)
                self._fuse_layers(prompts, expected)
            except BaseException:
                self._model.set_attn_implementation(previous)
                raise
            if graphs and on_one_gpu(self._model):
                self._use_graphs(most_wanted, prompts, expected)

    @property
    def has_graphs(self) -> bool:
        """Whether steps of few tokens are CUDA graphs."""
        return self._graphs is not None

    def new_step(
        self, decoding: Sequence[tuple[CacheSlot, int]], reading: Sequence[tuple[CacheSlot, Sequence[int]]]
    ) -> Step:
        """What `forward` computes, as `Step` describes it."""
        return Step(decoding, reading, self.device, self._kernels)

    def forward(self, step: Step, wanted: torch.Tensor) -> torch.Tensor:
        """Logits of the tokens at the indices `wanted`, shape (wanted, vocabulary); valid until the next step."""
        logits = self._graphs.compute(step, wanted) if self._graphs is not None else None
        return self._forward(step, step.input_ids, step.position_ids, wanted) if logits is None else logits

    def _forward(
        self, step: Attention, ids: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        options: dict[str, Any] = {"logits_to_keep": wanted} if self._keeps_logits else {}
        logits = self._model(input_ids=ids, position_ids=positions, use_cache=False, step=step, **options).logits[0]
        return logits if self._keeps_logits else logits[wanted]  # type: ignore[no-any-return]

    def _use_graphs(self, most_wanted: int, prompts: Sequence[Sequence[int]], expected: Sequence[torch.Tensor]) -> None:
        """Use graphs if the model can be captured, and then gives the same."""
        started = monotonic()
        graphs = None
        with self._fallbacks.guard(Optimization.GRAPHS):
            self._graphs = StepGraphs(self._forward, self.device, tokens=max(SIZES), wanted=most_wanted)
            self._compare(prompts, expected)
            graphs = self._graphs
        self._graphs = graphs
        if graphs is not None:
            logger.info("steps of up to %d tokens are CUDA graphs, after %.1f s", max(SIZES), monotonic() - started)

    def _fuse_layers(self, prompts: Sequence[Sequence[int]], expected: Sequence[torch.Tensor]) -> None:
        """Compute all layers as one program, if that then gives the same."""
        if self._kernels is None:
            return
        # They need the compiler of kernels.
        from runners.engines.generate.fused_layers import fused_layers
        from runners.kernels.writer import install_if_equivalent

        with self._fallbacks.guard(Optimization.PROGRAM):
            found = fused_layers(self._model, self.layers, self._asked, self._kernels)
            install_if_equivalent(found, lambda: self._compare(prompts, expected))

    def _prompts(self) -> list[list[int]]:
        return [[(3 + 5 * i + number) % self._tokens for i in range(n)] for number, n in enumerate(_LENGTHS)]

    def _plain(self, prompt: Sequence[int]) -> torch.Tensor:
        """Logits of all tokens by the model's own attention, and of one more token."""
        ids = torch.tensor([[*prompt, prompt[0]]], device=self.device)
        return self._model(input_ids=ids, use_cache=False).logits[0]  # type: ignore[no-any-return]

    def _probe(self, prompt: Sequence[int]) -> list[LayerShape]:
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
        if ("sliding_attention" in kinds or (window and not kinds)) and not probe.windows:
            raise UnsupportedAttention("its attention does not tell its window")
        self._asked = probe.asked
        return [probe.layers[i] for i in range(config.num_hidden_layers)]

    def _compare(self, prompts: Sequence[Sequence[int]], expected: Sequence[torch.Tensor]) -> None:
        """Read two prompts side by side, the longer in two pieces, then one more token of each."""
        cache = KVCache(self.layers, budget=1 << 16, slab_tokens=256, max_rows=2, longest=128)
        places = [cache.allocate(len(prompt) + 1) for prompt in prompts]
        first, second = (slot for slot in places if slot is not None)
        assert first.slab is second.slab, "this is a bug: two short sequences do not share a slab"
        (long, short), cut = prompts, len(prompts[0]) // 2
        self._step([], [(first, long[:cut]), (second, short)], expected)
        self._step([], [(first, long[cut:])], expected)
        self._step([(first, long[0]), (second, short[0])], [], expected)

    def _step(self, decoding: Any, reading: Any, expected: Sequence[torch.Tensor]) -> None:
        step = self.new_step(decoding, reading)
        logits = self.forward(step, step.ends)
        right = []
        for slot, tokens in [*decoding, *reading]:
            slot.length += 1 if isinstance(tokens, int) else len(tokens)
            right.append(expected[slot.index][slot.length - 1])
        if not is_rounding(list(logits), right, self._model.dtype, int8=self._int8):
            raise DifferentResults

"""Piecewise CUDA graphs for steps of few tokens.

A step is hundreds of small kernels, and Python takes longer to launch each than the GPU to compute it. Attention
differs from step to step, so a graph ends before each layer's attention and the next one begins after it. vLLM calls
this piecewise (https://docs.vllm.ai/en/stable/design/cuda_graphs.html); here captures end and begin while the model's
own forward pass runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from runners.engines.generate.attention import Attention
from runners.engines.generate.step import Step
from runners.kernels.capture import Buffers, Recorder, prepare_capture

#: Tokens of the captured steps; smaller steps are padded to the next size. Larger steps keep the GPU busy anyway.
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)


#: A model's forward pass. Its arguments are the attention, token ids and positions, both of shape (1, tokens), and the
#: indices of the wanted tokens; it returns their logits, shape (wanted, vocabulary).
Forward = Callable[[Attention, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class StepGraphs:
    """CUDA graphs of a model's forward pass over a `Step` of at most `tokens` tokens.

    Args:
        forward: the function to capture, once for each size.
        device: the GPU that holds the whole model.
        tokens: the largest step, at most the largest of `SIZES`.
        wanted: the most tokens whose logits a step may need.

    Raises:
        RuntimeError: the forward pass cannot be captured, for example because it reads values back from the GPU.
        torch.OutOfMemoryError: there is not enough memory for the graphs.
    """

    def __init__(self, forward: Forward, device: torch.device, *, tokens: int, wanted: int) -> None:
        self._sizes = [size for size in SIZES if size <= tokens]
        self._max_logits = wanted
        self._buffers = Buffers(device)
        self._graphs: dict[int, _Graph] = {}
        with prepare_capture(device) as pool:
            # The largest first, so that the smaller ones reuse its memory.
            for size in reversed(self._sizes):
                inputs = self._input_buffers(size)
                # Warm-up: in a first call libraries allocate memory and choose algorithms, which must not be captured.
                forward(_SegmentRecorder(self._buffers, None), *inputs)
                self._graphs[size] = _capture_graph(forward, inputs, self._buffers, pool)

    def compute(self, step: Step, wanted: torch.Tensor) -> torch.Tensor | None:
        """Return the logits of the tokens at the indices `wanted`; None without a graph for it.

        Returns:
            Shape (wanted, vocabulary); valid until the next call.
        """
        tokens = step.input_ids.shape[1]
        index = bisect_left(self._sizes, tokens)
        if index == len(self._sizes) or len(wanted) > min(self._max_logits, self._sizes[index]):
            return None
        ids, positions, indices = self._input_buffers(self._sizes[index])
        # The rest of the buffers holds tokens of earlier steps; they are computed, and their results are not used.
        ids[:, :tokens].copy_(step.input_ids)
        positions[:, :tokens].copy_(step.position_ids)
        indices[: len(wanted)].copy_(wanted)
        indices[len(wanted) :].zero_()
        return self._graphs[self._sizes[index]].replay(step, tokens)[: len(wanted)]

    def _input_buffers(self, size: int) -> _Inputs:
        wanted = min(size, self._max_logits)
        ids, positions = (self._buffers.get(name, (1, size), torch.long) for name in ("ids", "positions"))
        return ids, positions, self._buffers.get("wanted", (wanted,), torch.long)


@dataclass(frozen=True, slots=True)
class _LayerAttention:
    """Attention of one layer, run between two graphs; tensors of shape (tokens, heads, size)."""

    layer: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float
    window: int | None
    attended: torch.Tensor

    def compute(self, step: Step, tokens: int) -> None:
        query, key, value = (t[:tokens].transpose(0, 1) for t in (self.query, self.key, self.value))
        step.attend(self.layer, query, key, value, self.scale, self.window, out=self.attended[:tokens])


class _SegmentRecorder:
    """Attention during a capture: it ends the current graph and begins the next.

    Args:
        recorder: None for a warm-up that captures nothing.
    """

    def __init__(self, buffers: Buffers, recorder: Recorder | None) -> None:
        self._buffers = buffers
        self._recorder = recorder
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.attention: list[_LayerAttention] = []

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Record the layer's tensors, and return the tensor that its attention will fill."""
        q, k, v = (self._copy_to_buffer(name, t) for name, t in (("query", query), ("key", key), ("value", value)))
        tokens, heads, size = len(q), q.shape[1], v.shape[2]
        attended = self._buffers.get(("attended", heads, size), (tokens, heads, size), q.dtype)
        self.attention.append(_LayerAttention(layer, q, k, v, scale, window, attended))
        if self._recorder is not None:
            self.graphs.append(self._recorder.end())
            self._recorder.begin()
        return attended

    def _copy_to_buffer(self, name: str, states: torch.Tensor) -> torch.Tensor:
        """Copy a tensor of shape (heads, tokens, size) to a buffer of shape (tokens, heads, size)."""
        return self._buffers.store((name, states.shape[0], states.shape[2]), states.transpose(0, 1))


class _Graph:
    """Captured forward pass for one number of tokens."""

    def __init__(self, segments: _SegmentRecorder, logits: torch.Tensor) -> None:
        self._first, *later = segments.graphs
        self._segments = list(zip(segments.attention, later, strict=True))
        self._logits = logits

    def replay(self, step: Step, tokens: int) -> torch.Tensor:
        self._first.replay()
        for attention, graph in self._segments:
            attention.compute(step, tokens)
            graph.replay()
        return self._logits


def _capture_graph(forward: Forward, inputs: _Inputs, buffers: Buffers, pool: Any) -> _Graph:
    with Recorder(pool) as recorder:
        segments = _SegmentRecorder(buffers, recorder)
        logits = buffers.store("logits", forward(segments, *inputs))
        segments.graphs.append(recorder.end())
    return _Graph(segments, logits)

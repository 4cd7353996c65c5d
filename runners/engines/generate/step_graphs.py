"""Steps of few tokens as CUDA graphs: the GPU is told once what to compute, and from then on only to do it again.

A step is hundreds of small kernels, each of which Python takes longer to launch than the GPU to compute. Attention
differs from step to step, so a graph ends where a layer attends, and the next begins behind it: what vLLM calls
piecewise (https://docs.vllm.ai/en/stable/design/cuda_graphs.html), here by ending and beginning a capture while the
model's own forward pass runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from runners.engines.generate.attention import Attention
from runners.engines.generate.step import Step
from runners.kernels.capture import Buffers, Recorder, capturing

#: Tokens of a step that there is a graph for; fewer are filled up. Steps of more keep the GPU busy anyway.
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)


#: A model's forward pass: attention, token ids and positions, shape (1, tokens), and the indices of tokens whose logits
#: are wanted, to logits, shape (wanted, vocabulary).
Forward = Callable[[Attention, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class StepGraphs:
    """A model's forward pass over any `Step` of at most so many tokens.

    Args:
        forward: is captured, once for each size.
        device: a GPU, which has all of the model.
        tokens: the largest step, at most the largest of `SIZES`.
        wanted: the most logits that a step may ask for.

    Raises:
        RuntimeError: the forward pass cannot be captured, such as one that looks at its own numbers.
        torch.OutOfMemoryError: there is no memory for it.
    """

    def __init__(self, forward: Forward, device: torch.device, *, tokens: int, wanted: int) -> None:
        self._sizes = [size for size in SIZES if size <= tokens]
        self._most_wanted = wanted
        self._buffers = Buffers(device)
        self._graphs: dict[int, _Graph] = {}
        with capturing(device) as pool:
            # The largest first: the smaller ones find their memory in its.
            for size in reversed(self._sizes):
                inputs = self._inputs(size)
                # Libraries allocate and choose in a first call what must not be captured.
                forward(_Segments(self._buffers, None), *inputs)
                self._graphs[size] = _captured(forward, inputs, self._buffers, pool)

    def compute(self, step: Step, wanted: torch.Tensor) -> torch.Tensor | None:
        """Logits of the tokens at the indices `wanted`, valid until the next call; None if there is no graph for it."""
        tokens = step.input_ids.shape[1]
        slot = bisect_left(self._sizes, tokens)
        if slot == len(self._sizes) or len(wanted) > min(self._most_wanted, self._sizes[slot]):
            return None
        ids, positions, indices = self._inputs(self._sizes[slot])
        # What else the buffers hold are tokens of earlier steps: computed, and read by no one.
        ids[:, :tokens].copy_(step.input_ids)
        positions[:, :tokens].copy_(step.position_ids)
        indices[: len(wanted)].copy_(wanted)
        indices[len(wanted) :].zero_()
        return self._graphs[self._sizes[slot]].replay(step, tokens)[: len(wanted)]

    def _inputs(self, size: int) -> _Inputs:
        wanted = min(size, self._most_wanted)
        ids, positions = (self._buffers.get(name, (1, size), torch.long) for name in ("ids", "positions"))
        return ids, positions, self._buffers.get("wanted", (wanted,), torch.long)


@dataclass(frozen=True, slots=True)
class _Attending:
    """One layer's attention, between two graphs; tensors of shape (tokens, heads, size)."""

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


class _Segments:
    """Attention while a forward pass is captured: ends a graph, and begins the next.

    Args:
        recorder: None to capture nothing.
    """

    def __init__(self, buffers: Buffers, recorder: Recorder | None) -> None:
        self._buffers = buffers
        self._recorder = recorder
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.attending: list[_Attending] = []

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Where the result will be."""
        q, k, v = (self._kept(name, t) for name, t in (("query", query), ("key", key), ("value", value)))
        tokens, heads, size = len(q), q.shape[1], v.shape[2]
        attended = self._buffers.get(("attended", heads, size), (tokens, heads, size), q.dtype)
        self.attending.append(_Attending(layer, q, k, v, scale, window, attended))
        if self._recorder is not None:
            self.graphs.append(self._recorder.end())
            self._recorder.begin()
        return attended

    def _kept(self, name: str, states: torch.Tensor) -> torch.Tensor:
        """Shape (heads, tokens, size) to (tokens, heads, size)."""
        return self._buffers.keep((name, states.shape[0], states.shape[2]), states.transpose(0, 1))


class _Graph:
    """The forward pass over a number of tokens."""

    def __init__(self, chunks: _Segments, logits: torch.Tensor) -> None:
        self._first, *others = chunks.graphs
        self._pieces = list(zip(chunks.attending, others, strict=True))
        self._logits = logits

    def replay(self, step: Step, tokens: int) -> torch.Tensor:
        self._first.replay()
        for attending, graph in self._pieces:
            attending.compute(step, tokens)
            graph.replay()
        return self._logits


def _captured(forward: Forward, inputs: _Inputs, buffers: Buffers, pool: Any) -> _Graph:
    with Recorder(pool) as recorder:
        chunks = _Segments(buffers, recorder)
        logits = buffers.keep("logits", forward(chunks, *inputs))
        chunks.graphs.append(recorder.end())
    return _Graph(chunks, logits)

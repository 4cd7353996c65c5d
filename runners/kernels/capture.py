"""What CUDA graphs need: memory that stays where it is, and a stream to be captured on.

A graph is what a GPU was once told to compute, and computes again when told only that. Source:
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import torch
from torch import nn


def on_one_gpu(model: nn.Module) -> bool:
    """Whether a GPU has all of a model: other memory is read in ways that cannot be captured."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    return len(devices) == 1 and devices.pop().type == "cuda"


class Buffers:
    """Memory that many graphs share for what goes in and what comes out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._made: dict[Hashable, torch.Tensor] = {}

    def get(self, name: Hashable, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The buffer of a name in a shape; the first must be the largest."""
        size = math.prod(shape)
        if name not in self._made:
            self._made[name] = torch.zeros(size, dtype=dtype, device=self._device)
        buffer = self._made[name]
        assert buffer.dtype == dtype, f"this is a bug: {name} has had another type before"
        assert len(buffer) >= size, f"this is a bug: {name} has been smaller before"
        return buffer[:size].view(shape)

    def keep(self, name: Hashable, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a tensor."""
        kept = self.get(name, tuple(tensor.shape), tensor.dtype)
        kept.copy_(tensor)
        return kept


class Recorder:
    """Captures one graph after the other, in a `with`: a capture that fails leaves the stream as one that can be used.

    Args:
        pool: of the memory that graphs compute in: that of `torch.cuda.graph_pool_handle`.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._open: torch.cuda.CUDAGraph | None = None

    def begin(self) -> None:
        """Capture what is computed from here on."""
        self._open = torch.cuda.CUDAGraph()
        self._open.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> torch.cuda.CUDAGraph:
        """The graph of what was computed since `begin`."""
        graph, self._open = self._open, None
        assert graph is not None, "this is a bug: nothing is captured"
        graph.capture_end()
        return graph

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *error: object) -> None:
        if self._open is not None:
            with suppress(RuntimeError):
                self._open.capture_end()


@contextmanager
def capturing(device: torch.device) -> Iterator[Any]:
    """A pool for graphs, which are captured inside.

    Raises:
        RuntimeError: something was computed that cannot be captured, such as what looks at its own numbers.
        torch.OutOfMemoryError: there is no memory for it.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.device(device), torch.cuda.stream(stream), torch.inference_mode():
            yield torch.cuda.graph_pool_handle()
    finally:
        torch.cuda.synchronize(device)

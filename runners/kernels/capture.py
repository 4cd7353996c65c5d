"""Capture of CUDA graphs: memory at fixed addresses, and a stream to capture on.

A graph records the kernels of a computation once, and one launch replays all of them.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import torch
from torch import nn


def is_on_one_gpu(model: nn.Module) -> bool:
    """Return whether one GPU has the whole model; access to other memory cannot be captured."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    return len(devices) == 1 and devices.pop().type == "cuda"


class Buffers:
    """Memory that graphs share for their inputs and outputs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[Hashable, torch.Tensor] = {}

    def get(self, name: Hashable, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return the buffer of a name in a shape; the first call must have the largest shape."""
        size = math.prod(shape)
        if name not in self._buffers:
            self._buffers[name] = torch.zeros(size, dtype=dtype, device=self._device)
        buffer = self._buffers[name]
        assert buffer.dtype == dtype, f"this is a bug: {name} has had another type before"
        assert len(buffer) >= size, f"this is a bug: {name} has been smaller before"
        return buffer[:size].view(shape)

    def store(self, name: Hashable, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor into the buffer of a name, and return the copy."""
        copy = self.get(name, tuple(tensor.shape), tensor.dtype)
        copy.copy_(tensor)
        return copy


class Recorder:
    """Context manager that captures graphs; if a capture fails, it leaves the stream usable.

    Args:
        pool: memory pool of the graphs, from `torch.cuda.graph_pool_handle`.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._open: torch.cuda.CUDAGraph | None = None

    def begin(self) -> None:
        """Start capturing."""
        self._open = torch.cuda.CUDAGraph()
        self._open.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> torch.cuda.CUDAGraph:
        """Stop capturing, and return the graph of everything since `begin`."""
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
def prepare_capture(device: torch.device) -> Iterator[Any]:
    """Prepare a stream and a memory pool to capture graphs inside the `with`.

    Raises:
        RuntimeError: an operation cannot be captured, such as one that depends on computed values.
        torch.OutOfMemoryError: there is not enough memory.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.device(device), torch.cuda.stream(stream), torch.inference_mode():
            yield torch.cuda.graph_pool_handle()
    finally:
        torch.cuda.synchronize(device)

"""What each kernel is compiled from. Nothing here needs PyTorch, so that a compiler can begin before it is there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KernelSource:
    """What a kernel is compiled from.

    Attributes:
        name: of a kernel, or of a function that makes one of its parameters: `package.module:function`.
    """

    name: str
    parameters: tuple[int | str, ...] = ()


#: Runs calls that are written down.
RUN = KernelSource("runners.kernels.sources.calls:run")

#: A layer of float32.
FLOAT32_MULTIPLY = KernelSource("runners.kernels.sources.float32_tiles:multiply")

#: A layer of eight bits: its inputs rounded, then multiplied.
INT8 = (
    KernelSource("runners.kernels.sources.int8_tiles:round_rows"),
    KernelSource("runners.kernels.sources.int8_tiles:multiply"),
)

#: A layer of float32 by MKL: the product, and what it is added to.
MKL = (
    KernelSource("runners.kernels.sources.mkl_calls:multiply"),
    KernelSource("runners.kernels.sources.mkl_calls:fill"),
)


def between_matrices(name: str, dtype: str) -> KernelSource:
    """One of `runners.kernels.sources.layers`.

    Args:
        dtype: float32 or bfloat16.
    """
    return KernelSource(f"runners.kernels.sources.layers:{name}", (dtype,))


def step_attention(size: int, value_size: int, shared: int, dtype: str) -> KernelSource:
    """Attention of a step, for heads of a size, of which so many share keys."""
    return KernelSource("runners.kernels.sources.step_attention:attention", (size, value_size, shared, dtype))


def text_attention(size: int, value_size: int, dtype: str) -> KernelSource:
    """Attention of whole texts, for heads of a size."""
    return KernelSource("runners.kernels.sources.text_attention:attention", (size, value_size, dtype))

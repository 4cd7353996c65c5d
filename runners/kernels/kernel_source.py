"""Names of kernel sources.

This module does not import PyTorch, so that compiling can start before the import.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KernelSource:
    """Source of one kernel.

    Attributes:
        name: `package.module:function` of the kernel, or of a function that returns it if there are parameters.
        parameters: arguments of that function.
    """

    name: str
    parameters: tuple[int | str, ...] = ()


#: Kernel that runs the kernel calls of a program.
RUN_CALLS = KernelSource("runners.kernels.sources.program_loop:run_calls")

#: Kernel of a linear layer in float32.
FLOAT32_LAYER = KernelSource("runners.kernels.sources.float32_tiles:multiply")

#: Kernels of a linear layer in int8: round the inputs, then multiply.
INT8_LAYER = (
    KernelSource("runners.kernels.sources.int8_tiles:round_rows"),
    KernelSource("runners.kernels.sources.int8_tiles:multiply"),
)


def get_layer_source(name: str, dtype: str) -> KernelSource:
    """Return the source of a kernel in `runners.kernels.sources.layers`.

    Args:
        dtype: float32 or bfloat16.
    """
    return KernelSource(f"runners.kernels.sources.layers:{name}", (dtype,))


def get_decode_attention_source(size: int, value_size: int, shared: int, dtype: str) -> KernelSource:
    """Return the source of decode attention: one token per sequence.

    Args:
        size: elements of a query and of a key.
        value_size: elements of a value.
        shared: query heads per key head.
    """
    return KernelSource("runners.kernels.sources.decode_attention:attention", (size, value_size, shared, dtype))


def get_sequence_attention_source(size: int, value_size: int, dtype: str) -> KernelSource:
    """Return the source of attention over whole sequences or prefill chunks."""
    return KernelSource("runners.kernels.sources.sequence_attention:attention", (size, value_size, dtype))

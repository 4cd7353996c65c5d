"""Attention over whole sequences, or prefill chunks, as matrix products of tiles.

PyTorch's attention is made for long sequences, and needs one call for each. Here one kernel call computes all of them,
with one head of one sequence as a unit. Keys and values are packed into panels, as weights of linear layers are.
"""

from __future__ import annotations

import torch

from runners.kernels.compiler import Compiler
from runners.kernels.host_cpu import computes_tiles
from runners.kernels.layout import fill_registers
from runners.kernels.parallel import ParallelKernel, bits, type_name
from runners.kernels.source import text_attention


class AttentionKernels:
    """Attention kernels for values of one type; create them only if `compute` returns true.

    Args:
        dtype: float32 or bfloat16; kernels compute in float32.
    """

    bits = staticmethod(bits)

    def __init__(self, dtype: torch.dtype, compiler: Compiler) -> None:
        self._type, self._compiler = type_name(dtype), compiler

    @staticmethod
    def compute() -> bool:
        """Return whether the CPU has the instructions that the kernels need."""
        return computes_tiles()

    @staticmethod
    def fit(size: int, value_size: int) -> bool:
        """Return whether heads fill whole registers."""
        return fill_registers(size, value_size)

    def kernel(self, size: int, value_size: int) -> ParallelKernel:
        """Return the kernel for a head size; it is compiled on first use.

        A unit is one head of one sequence. Arguments of the kernel:

        - addresses of queries, keys, values and outputs;
        - address of `SEQUENCE_FIELDS` integers for each sequence;
        - number of heads, and query heads per key head;
        - distances between tokens, in elements, in queries, keys, values and outputs;
        - window of attention in tokens, 0 if there is no limit;
        - scale of the scores.
        """
        return self._compiler.kernel(text_attention(size, value_size, self._type))

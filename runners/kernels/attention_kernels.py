"""Attention of whole texts, or of pieces of prompts, as products of tiles.

PyTorch's is made for long texts, and is called for each by itself. Here a unit is a head of a text; keys and values are
put into panels, so that scores and what they weigh are products like those of layers.
"""

from __future__ import annotations

import torch

from runners.kernels.compiler import Compiler
from runners.kernels.host_cpu import computes_tiles
from runners.kernels.layout import fill_registers
from runners.kernels.parallel import ParallelKernel, bits, type_name
from runners.kernels.source import text_attention


class AttentionKernels:
    """Kernels for numbers of one type; to be made only where they `compute`.

    Args:
        dtype: float32 or bfloat16; computed in float32.
    """

    bits = staticmethod(bits)

    def __init__(self, dtype: torch.dtype, compiler: Compiler) -> None:
        self._type, self._compiler = type_name(dtype), compiler

    @staticmethod
    def compute() -> bool:
        """Whether the processor has the instructions."""
        return computes_tiles()

    @staticmethod
    def fit(size: int, value_size: int) -> bool:
        """Whether heads fill whole registers."""
        return fill_registers(size, value_size)

    def of(self, size: int, value_size: int) -> ParallelKernel:
        """The kernel for heads of a size; compiled when it is first asked for.

        A unit is a head of a text. It is given: addresses of queries, keys, values and outputs; the address of `TEXT`
        numbers for each text; the number of heads, and how many share a key; the distances of a token's queries, keys,
        values and outputs from the next one's; how far back a token sees, 0 if there is no limit; and the scale.
        """
        return self._compiler.kernel(text_attention(size, value_size, self._type))

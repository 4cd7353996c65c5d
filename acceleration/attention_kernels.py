"""Attention of whole texts, or of pieces of prompts, as products of tiles.

PyTorch's is made for long texts, and is called for each by itself. Here a unit is a head of a text; keys and values are
put into panels, so that scores and what they weigh are products like those of layers.
"""

from __future__ import annotations

import torch

from acceleration.compiler import Compiler, Source
from acceleration.float32_kernels import Float32Kernels
from acceleration.layout import LANES
from acceleration.parallel import ParallelKernel, bits, type_name


class AttentionKernels:
    """Kernels for numbers of one type; to be made only where they `compute`.

    Args:
        dtype: float32 or bfloat16; computed in float32.
    """

    bits = staticmethod(bits)

    def __init__(self, dtype: torch.dtype, compiler: Compiler) -> None:
        self._dtype, self._compiler = dtype, compiler

    @staticmethod
    def compute() -> bool:
        """Whether the processor has the instructions."""
        return Float32Kernels.compute()

    @staticmethod
    def fit(size: int, value_size: int) -> bool:
        """Whether heads fill whole registers."""
        return size % LANES == 0 and value_size % LANES == 0

    def of(self, size: int, value_size: int) -> ParallelKernel:
        """The kernel for heads of a size; compiled when it is first asked for.

        A unit is a head of a text. It is given: addresses of queries, keys, values and outputs; the address of `TEXT`
        numbers for each text; the number of heads, and how many share a key; the distances of a token's queries, keys,
        values and outputs from the next one's; how far back a token sees, 0 if there is no limit; and the scale.
        """
        return self._compiler.kernel(self.source(size, value_size, self._dtype))

    @staticmethod
    def source(size: int, value_size: int, dtype: torch.dtype) -> Source:
        """What it is compiled from."""
        return Source("acceleration.sources.text_attention:attention", (size, value_size, type_name(dtype)))

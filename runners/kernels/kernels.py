"""What layers compute between their matrices, each in one pass over few numbers.

PyTorch computes it in five to ten operations, each of which costs as much for one row as for many: more than half of a
step that writes one token. Compiled by Numba, which needs no compiler on the machine, and kept in a folder.

Numbers are float32 or bfloat16, and computed in float32.
"""

from __future__ import annotations

from functools import cached_property

import torch

from runners.kernels.attention_kernels import AttentionKernels
from runners.kernels.compiler import Compiler
from runners.kernels.parallel import ParallelKernel, bits, type_name
from runners.kernels.source import between_matrices, step_attention


class Kernels:
    """Kernels for numbers of one type, each called with the number of units and then what it reads from its call.

    Each is compiled when it is first asked for. What they compute, and what they are given: `runners.kernels.sources`.

    Args:
        dtype: float32 or bfloat16.

    Attributes:
        dtype, compiler: as they were given.
    """

    #: A number that is not whole, as an argument.
    bits = staticmethod(bits)

    def __init__(self, dtype: torch.dtype, compiler: Compiler) -> None:
        self.dtype = dtype
        self.compiler = compiler
        self._texts = AttentionKernels(dtype, compiler) if AttentionKernels.compute() else None

    @cached_property
    def rms_norm(self) -> ParallelKernel:
        return self._kernel("rms_norm")

    @cached_property
    def add_rms_norm(self) -> ParallelKernel:
        return self._kernel("add_rms_norm")

    @cached_property
    def add_layer_norm(self) -> ParallelKernel:
        return self._kernel("add_layer_norm")

    @cached_property
    def gelu(self) -> ParallelKernel:
        return self._kernel("gelu")

    @cached_property
    def gate(self) -> ParallelKernel:
        return self._kernel("gate")

    @cached_property
    def rotate(self) -> ParallelKernel:
        return self._kernel("rotate")

    @cached_property
    def keep(self) -> ParallelKernel:
        return self._kernel("keep")

    def attend(self, size: int, value_size: int, shared: int) -> ParallelKernel:
        """The kernel for heads of a size, of which so many share keys; compiled when it is first asked for."""
        return self.compiler.kernel(step_attention(size, value_size, shared, type_name(self.dtype)))

    def texts(self, size: int, value_size: int) -> ParallelKernel | None:
        """That of `AttentionKernels` for heads of a size, if there is one; compiled when it is first asked for."""
        return self._texts.of(size, value_size) if self._texts and self._texts.fit(size, value_size) else None

    @staticmethod
    def compute(dtype: torch.dtype) -> bool:
        """Whether there are kernels for numbers of a type."""
        return dtype in (torch.float32, torch.bfloat16)

    def _kernel(self, name: str) -> ParallelKernel:
        return self.compiler.kernel(between_matrices(name, type_name(self.dtype)))

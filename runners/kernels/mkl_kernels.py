"""MKL's products as kernels, for programs."""

from __future__ import annotations

import torch

from runners.kernels.compiler import Compiler
from runners.kernels.mkl import Mkl
from runners.kernels.program import ROWS, KernelCall, OfRows
from runners.kernels.source import MKL

#: From so many numbers on all threads fill outputs with a bias.
_LARGE = 1 << 15


class MklKernels:
    """Calls of MKL, which shares its work among PyTorch's threads by itself."""

    def __init__(self, mkl: Mkl, compiler: Compiler) -> None:
        self._function = mkl.compute_address
        compiler.start(MKL)
        self._multiply, self._fill = map(compiler.kernel, MKL)

    def linear(
        self, inputs: int, outputs: int, packed: torch.Tensor, bias: torch.Tensor | None, shape: tuple[int, int]
    ) -> list[KernelCall]:
        """A layer's outputs.

        Args:
            inputs, outputs: addresses; rows of both are contiguous.
            shape: (out, in).
        """
        size, in_features = shape
        large = OfRows(("filled by all", size), lambda rows: rows * size >= _LARGE)
        calls = [] if bias is None else [KernelCall(self._fill, ROWS, (outputs, bias.data_ptr(), size), large)]
        given = self._function, inputs, packed.data_ptr(), outputs, ROWS, size, in_features, int(bias is not None)
        return [*calls, KernelCall(self._multiply, 1, given, large=0)]

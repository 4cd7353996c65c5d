"""MKL's matrix products as kernels of a program."""

from __future__ import annotations

import torch

from runners.kernels.compiler import Compiler
from runners.kernels.mkl import Mkl
from runners.kernels.program import ROWS, FromRows, KernelCall
from runners.kernels.source import MKL

#: Elements from which all threads share filling the outputs with the bias.
_LARGE = 1 << 15


class MklKernels:
    """Kernels that call MKL, which shares its work among PyTorch's threads by itself."""

    def __init__(self, mkl: Mkl, compiler: Compiler) -> None:
        self._function = mkl.compute_address
        compiler.start(MKL)
        self._multiply, self._fill = map(compiler.kernel, MKL)

    def linear(
        self, inputs: int, outputs: int, packed: torch.Tensor, bias: torch.Tensor | None, shape: tuple[int, int]
    ) -> list[KernelCall]:
        """Return the calls that compute a linear layer.

        Args:
            inputs, outputs: addresses of contiguous rows.
            packed: weights as `Mkl.pack` returns them.
            shape: (out, in).
        """
        size, in_features = shape
        large = FromRows(("filled by all", size), lambda rows: rows * size >= _LARGE)
        calls = [] if bias is None else [KernelCall(self._fill, ROWS, (outputs, bias.data_ptr(), size), large)]
        arguments = self._function, inputs, packed.data_ptr(), outputs, ROWS, size, in_features, int(bias is not None)
        return [*calls, KernelCall(self._multiply, 1, arguments, large=0)]

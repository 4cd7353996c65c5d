"""Linear layers as kernel calls of a program."""

from __future__ import annotations

from typing import Any

import torch

from runners.kernels.compiler import Compiler
from runners.kernels.int8 import VnniInt8Linear
from runners.kernels.mkl import mkl
from runners.kernels.mkl_kernels import MklKernels
from runners.kernels.packed import MklLinear, TiledLinear
from runners.kernels.program import KernelCall, Scratch


class LinearCalls:
    """Kernel calls for linear layers that can be computed without Python.

    Args:
        scratch: memory for intermediate results of the calls.
    """

    def __init__(self, compiler: Compiler, scratch: Scratch) -> None:
        self._scratch = scratch
        library = mkl()
        self._mkl = MklKernels(library, compiler) if library is not None else None

    def layer_calls(self, layer: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> list[KernelCall] | None:
        """Return the calls that compute a layer, or None if only Python can compute it.

        Args:
            inputs, outputs: contiguous, shape (rows, size), with as many rows as the scratch has.
        """
        if inputs.dtype != torch.float32:
            return None
        addresses = inputs.data_ptr(), outputs.data_ptr()
        if isinstance(layer, MklLinear) and self._mkl is not None:
            return self._mkl.linear(*addresses, layer.packed, layer.bias, (layer.out_features, layer.in_features))
        if isinstance(layer, TiledLinear):
            return layer.calls(*addresses)
        # Not for `PreciseInt8Linear`, which computes its inputs in two parts.
        return layer.calls(*addresses, self._scratch) if type(layer) is VnniInt8Linear else None

"""MKL's products with weights that were packed once, by the functions of it that are in PyTorch's library.

PyTorch's own operation for them cannot be called without Python.

Source: https://www.intel.com/content/www/us/en/docs/onemkl/developer-reference-c/2024-0/cblas-gemm-compute-002.html
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

from runners.kernels.layout import MKL_AS_IT_IS, MKL_PACKED, MKL_ROW_MAJOR

#: Further names of CBLAS: a matrix that is transposed; the second one.
_TRANSPOSED, _SECOND = 112, 162

_INT, _FLOAT, _ADDRESS = ctypes.c_int, ctypes.c_float, ctypes.c_void_p

#: Rows for which weights are packed. MKL asks for no certain number when it computes: any other is computed as well.
_ROWS = 256


class Mkl:
    """Products of float32.

    Attributes:
        compute_address: of the function that multiplies, for those who call it without Python.
    """

    def __init__(self, library: Any) -> None:
        """
        Raises:
            AttributeError: the library has no MKL.
        """
        self._size, self._pack, self._compute = (
            library.cblas_sgemm_pack_get_size, library.cblas_sgemm_pack, library.cblas_sgemm_compute,
        )  # fmt: skip
        self._size.restype, self._size.argtypes = ctypes.c_size_t, [_INT] * 4
        self._pack.restype = None
        self._pack.argtypes = [*[_INT] * 6, _FLOAT, _ADDRESS, _INT, _ADDRESS]
        self._compute.restype = None
        self._compute.argtypes = [*[_INT] * 6, _ADDRESS, _INT, _ADDRESS, _INT, _FLOAT, _ADDRESS, _INT]
        self.compute_address: int = ctypes.cast(self._compute, _ADDRESS).value or 0

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Weights of shape (out, in) in the order in which they are read; opaque."""
        weight = weight.detach().contiguous()
        out_features, in_features = weight.shape
        shape = _ROWS, out_features, in_features
        packed = torch.empty(self._size(_SECOND, *shape), dtype=torch.uint8)
        self._pack(MKL_ROW_MAJOR, _SECOND, _TRANSPOSED, *shape, 1.0, weight.data_ptr(), in_features, packed.data_ptr())
        return packed

    def multiply(
        self, rows: int, inputs: torch.Tensor, packed: torch.Tensor, outputs: torch.Tensor, *, add: bool
    ) -> None:
        """Fill outputs, or add to them.

        Args:
            inputs: shape (..., in), contiguous, so many rows.
            outputs: shape (..., out), likewise.
        """
        size, in_features = outputs.shape[-1], inputs.shape[-1]
        self._compute(
            MKL_ROW_MAJOR, MKL_AS_IT_IS, MKL_PACKED, rows, size, in_features, inputs.data_ptr(), in_features,
            packed.data_ptr(), in_features, float(add), outputs.data_ptr(), size,
        )  # fmt: skip


@cache
def mkl() -> Mkl | None:
    """That of this PyTorch; None if it has none."""
    try:
        return Mkl(ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")))
    except (OSError, AttributeError):
        return None

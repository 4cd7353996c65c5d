"""Matrix products with packed weights, by the MKL functions inside PyTorch's library.

PyTorch's own operation for packed weights can only be called from Python.

Source: https://www.intel.com/content/www/us/en/docs/onemkl/developer-reference-c/2024-0/cblas-gemm-compute-002.html
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

from runners.kernels.layout import MKL_NOT_TRANSPOSED, MKL_PACKED, MKL_ROW_MAJOR

#: More CBLAS constants: CblasTrans, CblasBMatrix.
_TRANSPOSED, _SECOND = 112, 162

_INT, _FLOAT, _ADDRESS = ctypes.c_int, ctypes.c_float, ctypes.c_void_p

#: Rows that weights are packed for. MKL computes other numbers of rows with the same packed weights.
_ROWS = 256


class Mkl:
    """MKL functions for float32 products with packed weights.

    Attributes:
        compute_address: address of the function that multiplies, for calls without Python.
    """

    def __init__(self, library: Any) -> None:
        """Find the functions in a library.

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
        """Pack weights of shape (out, in) into MKL's layout, which is opaque."""
        weight = weight.detach().contiguous()
        out_features, in_features = weight.shape
        shape = _ROWS, out_features, in_features
        packed = torch.empty(self._size(_SECOND, *shape), dtype=torch.uint8)
        self._pack(MKL_ROW_MAJOR, _SECOND, _TRANSPOSED, *shape, 1.0, weight.data_ptr(), in_features, packed.data_ptr())
        return packed

    def multiply(
        self, rows: int, inputs: torch.Tensor, packed: torch.Tensor, outputs: torch.Tensor, *, add: bool
    ) -> None:
        """Multiply inputs by packed weights, and store the product or add it to the outputs.

        Args:
            rows: number of rows of `inputs` and of `outputs`.
            inputs: shape (..., in), contiguous.
            outputs: shape (..., out), contiguous.
            add: add the product to what `outputs` has.
        """
        size, in_features = outputs.shape[-1], inputs.shape[-1]
        self._compute(
            MKL_ROW_MAJOR, MKL_NOT_TRANSPOSED, MKL_PACKED, rows, size, in_features, inputs.data_ptr(), in_features,
            packed.data_ptr(), in_features, float(add), outputs.data_ptr(), size,
        )  # fmt: skip


@cache
def mkl() -> Mkl | None:
    """Return MKL of this PyTorch, or None if PyTorch was built without it."""
    try:
        return Mkl(ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")))
    except (OSError, AttributeError):
        return None

"""Compiled functions whose work is shared by the threads that PyTorch computes with.

Threads of one's own would fight with those over the cores: PyTorch's wait for their next work without sleeping.
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import torch

from runners.kernels.layout import ARGUMENTS

_Call = ctypes.c_int64 * ARGUMENTS


def bits(number: float) -> int:
    """A number as an argument of a call."""
    return int.from_bytes(struct.pack("=d", number), "little", signed=True)


def type_name(dtype: torch.dtype) -> str:
    """A type as sources of kernels call it."""
    return str(dtype).removeprefix("torch.")


class ParallelKernel:
    """A compiled function that takes units of work until none is left.

    It is given the address of `int64` numbers: the next unit, the number of units, and its arguments. Units may be
    computed in any order and side by side.

    Attributes:
        address: of the function.
    """

    def __init__(self, address: int, code: Any) -> None:
        """
        Args:
            code: what the function goes with.
        """
        self.address, self._code = address, code
        # To get Python's lock back takes longer than what is small.
        self._small = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(address)
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
        self._together = parallel_region()

    def __call__(self, units: int, *arguments: int, large: bool = True) -> None:
        """Compute all units.

        Args:
            large: worth to be shared by as many threads as PyTorch has, while other threads of Python go on.
        """
        call = _Call(0, units, *arguments)
        if not large:
            self._small(call)
        elif self._together is not None and (threads := min(torch.get_num_threads(), units)) > 1:
            self._together(self.address, call, threads, 0)
        else:
            self._alone(call)


def parallel_region() -> Any | None:
    """GNU OpenMP's entry for a function that all threads run; None where PyTorch has another OpenMP.

    Source: https://gcc.gnu.org/onlinedocs/libgomp/Implementing-PARALLEL-construct.html
    """
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        try:
            # It is the one that PyTorch has loaded.
            region = ctypes.CDLL(str(library)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        region.restype = None
        region.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
        return region
    return None

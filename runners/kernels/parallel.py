"""Compiled functions that share their work among PyTorch's threads.

Separate threads would compete for the cores, because PyTorch's threads spin while they wait for work.
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import torch

from runners.kernels.layout import CALL_LENGTH

_CallArray = ctypes.c_int64 * CALL_LENGTH


def encode_float(number: float) -> int:
    """Convert a float to an argument of a call."""
    return int.from_bytes(struct.pack("=d", number), "little", signed=True)


def get_type_name(dtype: torch.dtype) -> str:
    """Return a type's name in kernel sources, such as `float32`."""
    return str(dtype).removeprefix("torch.")


class ParallelKernel:
    """Compiled function that computes units of work until none is left.

    Its argument is the address of an `int64` array: the next unit, the number of units, and the call's arguments. Units
    may be computed in any order and in parallel.

    Attributes:
        address: address of the function.
    """

    def __init__(self, address: int, code: Any) -> None:
        """Make a function callable.

        Args:
            address: address of the function.
            code: owner of its machine code.
        """
        self.address, self._code = address, code
        # Keeps Python's lock: releasing and acquiring it takes longer than a small call.
        self._small = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(address)
        self._single = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
        self._parallel = find_parallel_region()

    def __call__(self, units: int, *arguments: int, large: bool = True) -> None:
        """Compute all units.

        Args:
            units: number of units.
            arguments: arguments of the kernel.
            large: share the work among PyTorch's threads, and release Python's lock.
        """
        call = _CallArray(0, units, *arguments)
        if not large:
            self._small(call)
        elif self._parallel is not None and (threads := min(torch.get_num_threads(), units)) > 1:
            self._parallel(self.address, call, threads, 0)
        else:
            self._single(call)


def find_parallel_region() -> Any | None:
    """Return GNU OpenMP's function that runs a function in all threads.

    None if PyTorch uses another OpenMP.

    Source: https://gcc.gnu.org/onlinedocs/libgomp/Implementing-PARALLEL-construct.html
    """
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        try:
            # PyTorch has loaded this file already, so its threads are the same.
            region = ctypes.CDLL(str(library)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        region.restype = None
        region.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
        return region
    return None

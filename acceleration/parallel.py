"""Compiled functions whose work is shared by the threads that PyTorch computes with.

Threads of one's own would fight with those over the cores: PyTorch's wait for their next work without sleeping.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
import torch
from llvmlite import binding, ir
from numba import cfunc, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

#: Sums may be taken in any order, but what is not a number stays that: LLVM's `fast` would let it become anything.
OPTIONS: dict[str, Any] = {
    "fastmath": {"reassoc", "contract", "nsz", "arcp", "afn"},
    "error_model": "numpy",
}

#: What such a function is given: the address of a `Call`.
_SIGNATURE = types.void(types.CPointer(types.int64))

#: Numbers that a function is given: the next unit, the number of units, and up to 14 arguments.
ARGUMENTS = 16

_Call = ctypes.c_int64 * ARGUMENTS

#: Types of code in compiled functions.
Code = tuple[Signature, Callable[..., Any]]


@intrinsic
def next_unit(_context: Any, call: Any) -> Code:
    """The next unit of a call that nobody has taken yet; there are `call[1]` of them."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(call), build


@intrinsic
def as_float(_context: Any, number: Any) -> Code:
    """An argument that was given as `bits`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(number), build


def bits(number: float) -> int:
    """A number as an argument of a call."""
    return int.from_bytes(struct.pack("=d", number), "little", signed=True)


class ParallelKernel:
    """A compiled function that takes units of work until none is left.

    It is given the address of `int64` numbers: the next unit, the number of units, and its arguments. Units may be
    computed in any order and side by side.

    Attributes:
        address: of the function.
    """

    def __init__(self, function: Callable[..., None], folder: Path) -> None:
        self._compiled: Any = kept(lambda keep: cfunc(_SIGNATURE, cache=keep, **OPTIONS)(function), kept_in(folder))
        self.address: int = self._compiled.address
        # To get Python's lock back takes longer than what is small.
        self._small = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(self.address)
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address)
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


@cache
def kept_in(folder: Path) -> Path:
    """Where functions of this version are kept: Numba looks at one source file to see whether they are old."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return folder / digest[:16]


def compiles_for(feature: str) -> bool:
    """Whether the compiler is told to use a feature of the processor; it ends the process where it does not know it."""
    named = numba.config.CPU_NAME or numba.config.CPU_FEATURES
    return not named and bool(binding.get_host_cpu_features().get(feature))


def kept(compiled: Callable[[bool], ResultT], folder: Path) -> ResultT:
    """What is compiled, from a folder or kept there; not kept if nothing can be.

    Args:
        compiled: compiles, and keeps the result if it is told to.
    """
    try:
        numba.config.CACHE_DIR = str(folder)
        return compiled(True)
    except (OSError, RuntimeError) as error:
        logger.debug("what is compiled is not kept: %s", error)
        return compiled(False)


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

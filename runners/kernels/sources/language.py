"""What kernels are written with: their units of work, and numbers in memory.

Numbers are float32 or bfloat16, and computed in float32. Nothing here may raise: a kernel runs without Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

#: Sums may be taken in any order, but what is not a number stays that: LLVM's `fast` would let it become anything.
OPTIONS: dict[str, Any] = {
    "fastmath": {"reassoc", "contract", "nsz", "arcp", "afn"},
    "error_model": "numpy",
}

#: A kernel: it is given the address of its call.
Kernel = Callable[[Any], None]

#: Types of code in kernels.
Code = tuple[Signature, Callable[..., Any]]
FLOAT_LIKE, INT_LIKE, BYTE_LIKE, BITS_LIKE = np.float32(0), np.int64(0), np.uint8(0), np.uint32(0)

#: A number as kernels see those of a type; the compiler does not know bfloat16.
LIKE: dict[str, Any] = {"float32": FLOAT_LIKE, "bfloat16": np.uint16(0)}


@intrinsic
def next_unit(_context: Any, call: Any) -> Code:
    """The next unit of a call that nobody has taken yet; there are `call[1]` of them."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(call), build


@intrinsic
def as_float(_context: Any, number: Any) -> Code:
    """An argument that is the bits of a number."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(number), build


@intrinsic
def allocate(_context: Any, size: Any) -> Code:
    """The address of so many bytes, to be released; Numba's arrays belong to its own runtime, which kernels lack."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(8).as_pointer(), [ir.IntType(64)])
        memory = builder.call(function(builder, "malloc", kind), arguments)
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.int64(types.int64), build


@intrinsic
def release(_context: Any, address: Any) -> Code:
    """Give back what was allocated; nothing for 0."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        called = function(builder, "free", ir.FunctionType(ir.VoidType(), [byte]))
        builder.call(called, [builder.inttoptr(arguments[0], byte)])
        return context.get_dummy_value()

    return types.void(types.int64), build


def function(builder: Any, name: str, kind: Any) -> Any:
    """One of LLVM's own functions, or of the C library's, where a builder is."""
    module = builder.module
    return module.globals.get(name) or ir.Function(module, kind, name)


@intrinsic
def _pointer(_context: Any, address: Any, start: Any, like: Any) -> Code:
    """Where the number at `start` is of those at an address."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers = builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))
        return builder.gep(numbers, [arguments[1]])

    return types.CPointer(like)(address, start, like), build


@njit(inline="always", **OPTIONS)
def row_at(address: Any, start: Any, size: Any, like: Any) -> Any:
    """So many of the numbers at an address. To begin with 0 makes all indices positive, which no kernel must check."""
    return carray(_pointer(address, start, like), size)


def get(numbers: Any, index: int) -> np.float32:
    """One of some numbers, as float32."""
    raise NotImplementedError  # only Numba calls it


def put(numbers: Any, index: int, value: np.float32) -> None:
    """Set one of some numbers, rounded to the nearest."""
    raise NotImplementedError


@overload(get, strict=False)
def _get_of(numbers: Any, index: Any) -> Any:
    def read(numbers: Any, index: Any) -> Any:
        return numbers[index]

    def widen(numbers: Any, index: Any) -> Any:
        return np.uint32(np.uint32(numbers[index]) << np.uint32(16)).view(np.float32)

    return read if numbers.dtype == types.float32 else widen


@overload(put, strict=False)
def _put_of(numbers: Any, index: Any, value: Any) -> Any:
    def write(numbers: Any, index: Any, value: Any) -> None:
        numbers[index] = value

    def narrow(numbers: Any, index: Any, value: Any) -> None:
        bits = np.float32(value).view(np.uint32)
        to_even = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        numbers[index] = np.uint16(np.uint32(bits + to_even + np.uint32(0x7FFF)) >> np.uint32(16))

    return write if numbers.dtype == types.float32 else narrow


@njit(inline="always", **OPTIONS)
def exp(x: Any) -> Any:
    """e to the power of x within 2e-7 of it; unlike the C library's, several at once."""
    x = min(max(x, np.float32(-87)), np.float32(88))
    whole = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    # The logarithm of 2 in two parts, so that what is left is exact.
    part = x - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    power = np.float32(1.9875691500e-4)
    power = power * part + np.float32(1.3981999507e-3)
    power = power * part + np.float32(8.3334519073e-3)
    power = power * part + np.float32(4.1665795894e-2)
    power = power * part + np.float32(1.6666665459e-1)
    power = power * part + np.float32(5.0000001201e-1)
    power = power * part * part + part + np.float32(1)
    return power * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)

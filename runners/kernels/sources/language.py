"""Building blocks of kernels: units of work, and values in memory.

Values are float32 or bfloat16, and computed in float32. Nothing here may raise, as kernels run without Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

#: Compiler options. Sums may be reordered, but NaN must stay NaN, which LLVM's `fast` would not guarantee.
OPTIONS: dict[str, Any] = {
    "fastmath": {"reassoc", "contract", "nsz", "arcp", "afn"},
    "error_model": "numpy",
}

#: A kernel; its argument is the address of its call.
Kernel = Callable[[Any], None]

#: Signature of an intrinsic, and the function that builds its code.
Code = tuple[Signature, Callable[..., Any]]
FLOAT_LIKE, INT_LIKE, BYTE_LIKE, BITS_LIKE = np.float32(0), np.int64(0), np.uint8(0), np.uint32(0)

#: Example value of each type as kernels see it; Numba does not know bfloat16.
LIKE: dict[str, Any] = {"float32": FLOAT_LIKE, "bfloat16": np.uint16(0)}


@intrinsic
def take_unit(_context: Any, call: Any) -> Code:
    """Take the next unit of a call atomically; the call has `call[1]` units."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(call), build


@intrinsic
def decode_float(_context: Any, bits: Any) -> Code:
    """Convert an argument that has the bits of a float64 to the float."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(bits), build


@intrinsic
def allocate(_context: Any, size: Any) -> Code:
    """Allocate bytes and return their address.

    Numba's own arrays need its runtime, which kernels do not have.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(8).as_pointer(), [ir.IntType(64)])
        memory = builder.call(declare_function(builder, "malloc", kind), arguments)
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.int64(types.int64), build


@intrinsic
def release(_context: Any, address: Any) -> Code:
    """Free allocated memory; does nothing for the address 0."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        called = declare_function(builder, "free", ir.FunctionType(ir.VoidType(), [byte]))
        builder.call(called, [builder.inttoptr(arguments[0], byte)])
        return context.get_dummy_value()

    return types.void(types.int64), build


def declare_function(builder: Any, name: str, kind: Any) -> Any:
    """Declare a function of LLVM or of the C library in the builder's module, and return it."""
    module = builder.module
    return module.globals.get(name) or ir.Function(module, kind, name)


@intrinsic
def _point_at(_context: Any, address: Any, start: Any, like: Any) -> Code:
    """Return a pointer to the element `start` of the array at an address."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))
        return builder.gep(values, [arguments[1]])

    return types.CPointer(like)(address, start, like), build


@njit(inline="always", **OPTIONS)
def row_at(address: Any, start: Any, size: Any, like: Any) -> Any:
    """Return `size` elements from the element `start` on of the array at an address.

    Indices then begin with 0 and are never negative, so the compiler adds no code for negative ones.
    """
    return carray(_point_at(address, start, like), size)


def get(values: Any, index: int) -> np.float32:
    """Read an element as float32."""
    raise NotImplementedError  # only Numba calls it


def put(values: Any, index: int, value: np.float32) -> None:
    """Store an element, rounded to the nearest value of its type."""
    raise NotImplementedError


@overload(get, strict=False)
def _overload_get(values: Any, index: Any) -> Any:
    def read(values: Any, index: Any) -> Any:
        return values[index]

    def widen(values: Any, index: Any) -> Any:
        return np.uint32(np.uint32(values[index]) << np.uint32(16)).view(np.float32)

    return read if values.dtype == types.float32 else widen


@overload(put, strict=False)
def _overload_put(values: Any, index: Any, value: Any) -> Any:
    def write(values: Any, index: Any, value: Any) -> None:
        values[index] = value

    def narrow(values: Any, index: Any, value: Any) -> None:
        bits = np.float32(value).view(np.uint32)
        to_even = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        values[index] = np.uint16(np.uint32(bits + to_even + np.uint32(0x7FFF)) >> np.uint32(16))

    return write if values.dtype == types.float32 else narrow


@njit(inline="always", **OPTIONS)
def exp(x: Any) -> Any:
    """Compute e to the power of x with a relative error of at most 2e-7.

    Unlike the C library's `exp`, it can be vectorized.
    """
    x = min(max(x, np.float32(-87)), np.float32(88))
    whole = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    # The logarithm of 2 in two parts, so that the remainder is exact.
    part = x - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    power = np.float32(1.9875691500e-4)
    power = power * part + np.float32(1.3981999507e-3)
    power = power * part + np.float32(8.3334519073e-3)
    power = power * part + np.float32(4.1665795894e-2)
    power = power * part + np.float32(1.6666665459e-1)
    power = power * part + np.float32(5.0000001201e-1)
    power = power * part * part + part + np.float32(1)
    return power * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)

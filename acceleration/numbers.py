"""Numbers in memory, as compiled functions see them: float32 or bfloat16, and computed in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import carray, njit, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

from acceleration.parallel import OPTIONS

#: What PyTorch's types are in memory, for a compiler that does not know bfloat16.
TYPES = {torch.float32: types.float32, torch.bfloat16: types.uint16}


def like_of(dtype: torch.dtype) -> Any:
    """A number as kernels see those of a type."""
    return np.dtype(str(TYPES[dtype])).type(0)


@intrinsic
def _pointer(_context: Any, address: Any, start: Any, like: Any) -> tuple[Signature, Callable[..., Any]]:
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


FLOAT_LIKE, INT_LIKE, BYTE_LIKE, BITS_LIKE = np.float32(0), np.int64(0), np.uint8(0), np.uint32(0)

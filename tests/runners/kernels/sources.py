"""Kernels whose effect tests can observe."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray

from runners.kernels.sources.language import INT_LIKE, Kernel, decode_float, row_at, take_unit


def add_product(call: Any) -> None:
    """Add the product of two arguments, a float and an integer, to each unit's element of a tensor."""
    arguments = carray(call, 5)
    unit = take_unit(call)
    while unit < arguments[1]:
        row_at(arguments[2], unit, 1, INT_LIKE)[0] += np.int64(decode_float(arguments[3]) * arguments[4])
        unit = take_unit(call)


def add_constant(number: int) -> Kernel:
    """Return a kernel that adds a number to each unit's element of a tensor."""

    def kernel(call: Any) -> None:
        arguments = carray(call, 3)
        unit = take_unit(call)
        while unit < arguments[1]:
            row_at(arguments[2], unit, 1, INT_LIKE)[0] += number
            unit = take_unit(call)

    return kernel


def append_digit(call: Any) -> None:
    """Multiply the element at an index by 10 and add a digit; the order of calls can then be read from it."""
    arguments = carray(call, 5)
    unit = take_unit(call)
    while unit < arguments[1]:
        element = row_at(arguments[2], arguments[3], 1, INT_LIKE)
        element[0] = 10 * element[0] + arguments[4]
        unit = take_unit(call)


def create_array(call: Any) -> None:
    """Create an array, which needs Numba's runtime: the compiler must refuse it."""
    arguments = carray(call, 2)
    arguments[1] = np.full(arguments[1], 1).sum()


def call_erf(call: Any) -> None:
    """Call a function of the C library that is not allowed: the compiler must refuse it."""
    arguments = carray(call, 2)
    arguments[1] = np.int64(math.erf(np.float64(arguments[1])))

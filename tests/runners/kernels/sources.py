"""Kernels that tests see run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray

from runners.kernels.sources.language import INT_LIKE, Kernel, as_float, row_at, take_unit


def add(call: Any) -> None:
    """Add six to each unit's place of a tensor: 1.5 times 4."""
    numbers = carray(call, 5)
    unit = take_unit(call)
    while unit < numbers[1]:
        row_at(numbers[2], unit, 1, INT_LIKE)[0] += np.int64(as_float(numbers[3]) * numbers[4])
        unit = take_unit(call)


def add_always(number: int) -> Kernel:
    """Add a number to each unit's place of a tensor."""

    def kernel(call: Any) -> None:
        numbers = carray(call, 3)
        unit = take_unit(call)
        while unit < numbers[1]:
            row_at(numbers[2], unit, 1, INT_LIKE)[0] += number
            unit = take_unit(call)

    return kernel


def note(call: Any) -> None:
    """Each unit is the number 10 times what was there, and the third argument, in the place of the second."""
    numbers = carray(call, 5)
    unit = take_unit(call)
    while unit < numbers[1]:
        place = row_at(numbers[2], numbers[3], 1, INT_LIKE)
        place[0] = 10 * place[0] + numbers[4]
        unit = take_unit(call)


def array(call: Any) -> None:
    """It needs Numba's own memory."""
    numbers = carray(call, 2)
    numbers[1] = np.full(numbers[1], 1).sum()


def library(call: Any) -> None:
    """It needs a function of the library of mathematics."""
    numbers = carray(call, 2)
    numbers[1] = np.int64(math.erf(np.float64(numbers[1])))

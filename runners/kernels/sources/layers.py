"""What layers compute between their matrices, each in one pass over few numbers.

Tensors are given by address, rows by their distance, in numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray

from runners.kernels.sources.language import (
    FLOAT_LIKE,
    INT_LIKE,
    LIKE,
    Kernel,
    allocate,
    as_float,
    exp,
    get,
    next_unit,
    put,
    release,
    row_at,
)


def rms_norm(dtype: str) -> Kernel:
    """RMS norm of so many rows of each token, tokens lying `distance` apart; `weight` has shape (size,), float32.

    A unit is a token.

    Source: https://arxiv.org/abs/1910.07467
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        numbers = carray(call, 10)
        x, weight, out, rows, size, distance, out_distance = (
            numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7], numbers[8],
        )  # fmt: skip
        factors, eps = row_at(weight, 0, size, FLOAT_LIKE), np.float32(as_float(numbers[9]))
        token = next_unit(call)
        while token < numbers[1]:
            for row in range(rows):
                given = row_at(x, token * distance + row * size, size, like)
                normed = row_at(out, token * out_distance + row * size, size, like)
                squares = np.float32(0)
                for i in range(size):
                    number = get(given, i)
                    squares += number * number
                scale = np.float32(1) / np.float32(math.sqrt(squares / np.float32(size) + eps))
                for i in range(size):
                    put(normed, i, factors[i] * (get(given, i) * scale))
            token = next_unit(call)

    return kernel


def add_rms_norm(dtype: str) -> Kernel:
    """`more` becomes the sum of both, shape (rows, size), and `out` its RMS norm. A unit is a row."""
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        numbers = carray(call, 8)
        x, more, weight, out, size = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
        factors, eps = row_at(weight, 0, size, FLOAT_LIKE), np.float32(as_float(numbers[7]))
        row = next_unit(call)
        while row < numbers[1]:
            given, sums = row_at(x, row * size, size, like), row_at(more, row * size, size, like)
            normed = row_at(out, row * size, size, like)
            squares = np.float32(0)
            for i in range(size):
                number = get(given, i) + get(sums, i)
                put(sums, i, number)
                squares += number * number
            scale = np.float32(1) / np.float32(math.sqrt(squares / np.float32(size) + eps))
            for i in range(size):
                put(normed, i, factors[i] * (get(sums, i) * scale))
            row = next_unit(call)

    return kernel


def add_layer_norm(dtype: str) -> Kernel:
    """`out` becomes the layer norm of the sum of `x` and `more`, shape (rows, size); it may be one of them.

    `weight` and `bias` have shape (size,), float32. A unit is a row.

    Source: https://arxiv.org/abs/1607.06450
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        numbers = carray(call, 9)
        x, more, out, size = numbers[2], numbers[3], numbers[6], numbers[7]
        factors, added = row_at(numbers[4], 0, size, FLOAT_LIKE), row_at(numbers[5], 0, size, FLOAT_LIKE)
        eps, room = np.float32(as_float(numbers[8])), allocate(size * 4)
        sums = row_at(room, 0, size, FLOAT_LIKE)
        row = next_unit(call)
        while row < numbers[1]:
            given, other = row_at(x, row * size, size, like), row_at(more, row * size, size, like)
            normed = row_at(out, row * size, size, like)
            total = np.float32(0)
            for i in range(size):
                number = get(given, i) + get(other, i)
                sums[i] = number
                total += number
            mean, squares = total / np.float32(size), np.float32(0)
            for i in range(size):
                number = sums[i] - mean
                squares += number * number
            scale = np.float32(1) / np.float32(math.sqrt(squares / np.float32(size) + eps))
            for i in range(size):
                put(normed, i, (sums[i] - mean) * scale * factors[i] + added[i])
            row = next_unit(call)
        release(room)

    return kernel


def gelu(dtype: str) -> Kernel:
    """x Φ(x) in place, shape (rows, size), within 2e-7 x of it. A unit is a row.

    Source: https://arxiv.org/abs/1606.08415; the error function by formula 7.1.26 of Abramowitz and Stegun,
    https://personal.math.ubc.ca/~cbm/aands/page_299.htm
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        numbers = carray(call, 4)
        size, row = numbers[3], next_unit(call)
        while row < numbers[1]:
            given = row_at(numbers[2], row * size, size, like)
            for i in range(size):
                x = get(given, i)
                far = abs(x) * np.float32(0.70710678)
                part = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * far)
                series = np.float32(1.061405429)
                series = series * part - np.float32(1.453152027)
                series = series * part + np.float32(1.421413741)
                series = series * part - np.float32(0.284496736)
                series = series * part + np.float32(0.254829592)
                # Φ(-|x|), without asking on which side x is.
                tail = np.float32(0.5) * series * part * exp(-far * far)
                put(given, i, max(x, np.float32(0)) - abs(x) * tail)
            row = next_unit(call)

    return kernel


def gate(dtype: str) -> Kernel:
    """x / (1 + exp(-x (linear + cubic x²))) of rows, times those at `up`, which lie as far apart. A unit is a row."""
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        numbers = carray(call, 9)
        gate, up, out, size, distance = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
        linear, cubic = np.float32(as_float(numbers[7])), np.float32(as_float(numbers[8]))
        rows, row = numbers[1], next_unit(call)
        while row < rows:
            gates, ups = row_at(gate, row * distance, size, like), row_at(up, row * distance, size, like)
            gated = row_at(out, row * size, size, like)
            for i in range(size):
                x = get(gates, i)
                less = np.float32(1) + exp(-x * (linear + cubic * x * x))
                put(gated, i, x / less * get(ups, i))
            row = next_unit(call)

    return kernel


def rotate(dtype: str) -> Kernel:
    """Rotary positions: heads of each token, tokens lying `distance` apart, by angles of shape (tokens, size).

    A unit is a token.

    Source: https://arxiv.org/abs/2104.09864
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        numbers = carray(call, 10)
        x, cos, sin, out, heads, size = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7]
        distance, out_distance, half = numbers[8], numbers[9], numbers[7] // 2
        token = next_unit(call)
        while token < numbers[1]:
            cos1, cos2 = row_at(cos, token * size, half, like), row_at(cos, token * size + half, half, like)
            sin1, sin2 = row_at(sin, token * size, half, like), row_at(sin, token * size + half, half, like)
            for head in range(heads):
                start, to = token * distance + head * size, token * out_distance + head * size
                first, second = row_at(x, start, half, like), row_at(x, start + half, half, like)
                rotated1, rotated2 = row_at(out, to, half, like), row_at(out, to + half, half, like)
                for i in range(half):
                    number1, number2 = get(first, i), get(second, i)
                    put(rotated1, i, number1 * get(cos1, i) - number2 * get(sin1, i))
                    put(rotated2, i, number2 * get(cos2, i) + number1 * get(sin2, i))
            token = next_unit(call)

    return kernel


def keep(dtype: str) -> Kernel:
    """Copy rows that lie `distance` apart to their places in a tensor of shape (places, size).

    A unit is one of those that `which` says, and its place is at the same index of `places`.
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        numbers = carray(call, 8)
        x, kept, which, places, size, distance = (
            numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7],
        )  # fmt: skip
        rows, where = row_at(which, 0, numbers[1], INT_LIKE), row_at(places, 0, numbers[1], INT_LIKE)
        unit = next_unit(call)
        while unit < numbers[1]:
            given, place = row_at(x, rows[unit] * distance, size, like), row_at(kept, where[unit] * size, size, like)
            for i in range(size):
                place[i] = given[i]
            unit = next_unit(call)

    return kernel

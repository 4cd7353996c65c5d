"""Kernels for the operations between matrix products, each in one pass over its rows.

Tensors are passed as addresses, and distances between rows in elements.
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
    decode_float,
    exp,
    get,
    put,
    release,
    row_at,
    take_unit,
)


def rms_norm(dtype: str) -> Kernel:
    """Return a kernel for RMS norm; a unit is a token.

    Each token has several rows of `size` elements, and tokens lie `distance` elements apart. `weight` has shape
    (size,), float32.

    Source: https://arxiv.org/abs/1910.07467
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        arguments = carray(call, 10)
        x, weight, out, rows, size, distance, out_distance = (
            arguments[2], arguments[3], arguments[4], arguments[5], arguments[6], arguments[7], arguments[8],
        )  # fmt: skip
        factors, eps = row_at(weight, 0, size, FLOAT_LIKE), np.float32(decode_float(arguments[9]))
        token = take_unit(call)
        while token < arguments[1]:
            for row in range(rows):
                inputs = row_at(x, token * distance + row * size, size, like)
                outputs = row_at(out, token * out_distance + row * size, size, like)
                squares = np.float32(0)
                for i in range(size):
                    value = get(inputs, i)
                    squares += value * value
                scale = np.float32(1) / np.float32(math.sqrt(squares / np.float32(size) + eps))
                for i in range(size):
                    put(outputs, i, factors[i] * (get(inputs, i) * scale))
            token = take_unit(call)

    return kernel


def add_rms_norm(dtype: str) -> Kernel:
    """Return a kernel that adds `x` to `more` and stores the sum's RMS norm in `out`.

    A unit is a row.

    All have shape (rows, size).
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        arguments = carray(call, 8)
        x, more, weight, out, size = arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]
        factors, eps = row_at(weight, 0, size, FLOAT_LIKE), np.float32(decode_float(arguments[7]))
        row = take_unit(call)
        while row < arguments[1]:
            inputs, sums = row_at(x, row * size, size, like), row_at(more, row * size, size, like)
            outputs = row_at(out, row * size, size, like)
            squares = np.float32(0)
            for i in range(size):
                value = get(inputs, i) + get(sums, i)
                put(sums, i, value)
                squares += value * value
            scale = np.float32(1) / np.float32(math.sqrt(squares / np.float32(size) + eps))
            for i in range(size):
                put(outputs, i, factors[i] * (get(sums, i) * scale))
            row = take_unit(call)

    return kernel


def add_layer_norm(dtype: str) -> Kernel:
    """Return a kernel that stores the layer norm of `x` + `more` in `out`; a unit is a row.

    All have shape (rows, size), and `out` may be one of the inputs. Weight and bias have shape (size,), float32.

    Source: https://arxiv.org/abs/1607.06450
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        arguments = carray(call, 9)
        x, more, out, size = arguments[2], arguments[3], arguments[6], arguments[7]
        factors, added = row_at(arguments[4], 0, size, FLOAT_LIKE), row_at(arguments[5], 0, size, FLOAT_LIKE)
        eps, buffer = np.float32(decode_float(arguments[8])), allocate(size * 4)
        sums = row_at(buffer, 0, size, FLOAT_LIKE)
        row = take_unit(call)
        while row < arguments[1]:
            inputs, other = row_at(x, row * size, size, like), row_at(more, row * size, size, like)
            outputs = row_at(out, row * size, size, like)
            total = np.float32(0)
            for i in range(size):
                value = get(inputs, i) + get(other, i)
                sums[i] = value
                total += value
            mean, squares = total / np.float32(size), np.float32(0)
            for i in range(size):
                value = sums[i] - mean
                squares += value * value
            scale = np.float32(1) / np.float32(math.sqrt(squares / np.float32(size) + eps))
            for i in range(size):
                put(outputs, i, (sums[i] - mean) * scale * factors[i] + added[i])
            row = take_unit(call)
        release(buffer)

    return kernel


def gelu(dtype: str) -> Kernel:
    """Return a kernel for GELU, x Φ(x), in place; a unit is a row.

    The shape is (rows, size), and the error is at most 2e-7 x.

    Source: https://arxiv.org/abs/1606.08415; the error function by formula 7.1.26 of Abramowitz and Stegun,
    https://personal.math.ubc.ca/~cbm/aands/page_299.htm
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        arguments = carray(call, 4)
        size, row = arguments[3], take_unit(call)
        while row < arguments[1]:
            inputs = row_at(arguments[2], row * size, size, like)
            for i in range(size):
                x = get(inputs, i)
                far = abs(x) * np.float32(0.70710678)
                part = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * far)
                series = np.float32(1.061405429)
                series = series * part - np.float32(1.453152027)
                series = series * part + np.float32(1.421413741)
                series = series * part - np.float32(0.284496736)
                series = series * part + np.float32(0.254829592)
                # Φ(-|x|), which serves both signs of x without a branch.
                tail = np.float32(0.5) * series * part * exp(-far * far)
                put(inputs, i, max(x, np.float32(0)) - abs(x) * tail)
            row = take_unit(call)

    return kernel


def gate(dtype: str) -> Kernel:
    """Return a kernel for gate / (1 + exp(-gate (linear + cubic gate²))) * up; a unit is a row.

    Rows of `gate` and of `up` lie `distance` elements apart.
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        arguments = carray(call, 9)
        gate, up, out, size, distance = arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]
        linear, cubic = np.float32(decode_float(arguments[7])), np.float32(decode_float(arguments[8]))
        rows, row = arguments[1], take_unit(call)
        while row < rows:
            gates, ups = row_at(gate, row * distance, size, like), row_at(up, row * distance, size, like)
            gated = row_at(out, row * size, size, like)
            for i in range(size):
                x = get(gates, i)
                less = np.float32(1) + exp(-x * (linear + cubic * x * x))
                put(gated, i, x / less * get(ups, i))
            row = take_unit(call)

    return kernel


def rotate(dtype: str) -> Kernel:
    """Return a kernel for rotary embeddings; a unit is a token.

    Tokens lie `distance` elements apart, each with all its heads. `cos` and `sin` have shape (tokens, size).

    Source: https://arxiv.org/abs/2104.09864
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        arguments = carray(call, 10)
        x, cos, sin, out, heads, size = (
            arguments[2], arguments[3], arguments[4], arguments[5], arguments[6], arguments[7],
        )  # fmt: skip
        distance, out_distance, half = arguments[8], arguments[9], arguments[7] // 2
        token = take_unit(call)
        while token < arguments[1]:
            cos1, cos2 = row_at(cos, token * size, half, like), row_at(cos, token * size + half, half, like)
            sin1, sin2 = row_at(sin, token * size, half, like), row_at(sin, token * size + half, half, like)
            for head in range(heads):
                start, to = token * distance + head * size, token * out_distance + head * size
                first, second = row_at(x, start, half, like), row_at(x, start + half, half, like)
                rotated1, rotated2 = row_at(out, to, half, like), row_at(out, to + half, half, like)
                for i in range(half):
                    value1, value2 = get(first, i), get(second, i)
                    put(rotated1, i, value1 * get(cos1, i) - value2 * get(sin1, i))
                    put(rotated2, i, value2 * get(cos2, i) + value1 * get(sin2, i))
            token = take_unit(call)

    return kernel


def copy_to_slots(dtype: str) -> Kernel:
    """Return a kernel that copies rows to slots of a tensor of shape (slots, size).

    A unit is a row.

    Rows of `x` lie `distance` elements apart. `sources` has the index of each copied row, and `slots` its slot.
    """
    like = LIKE[dtype]

    def kernel(call: Any) -> None:
        arguments = carray(call, 8)
        x, cache, sources, slots, size, distance = (
            arguments[2], arguments[3], arguments[4], arguments[5], arguments[6], arguments[7],
        )  # fmt: skip
        rows, targets = row_at(sources, 0, arguments[1], INT_LIKE), row_at(slots, 0, arguments[1], INT_LIKE)
        unit = take_unit(call)
        while unit < arguments[1]:
            inputs, slot = row_at(x, rows[unit] * distance, size, like), row_at(cache, targets[unit] * size, size, like)
            for i in range(size):
                slot[i] = inputs[i]
            unit = take_unit(call)

    return kernel

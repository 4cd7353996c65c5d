"""What layers compute between their matrices, each in one pass over few numbers.

PyTorch computes it in five to ten operations, each of which costs as much for one row as for many: more than half of a
step that writes one token. Compiled by Numba, which needs no compiler on the machine, and kept in a folder.

Numbers are float32 or bfloat16, and computed in float32. Tensors are given by address, rows by their distance, in
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import carray

from acceleration.attention_kernels import AttentionKernels
from acceleration.numbers import FLOAT_LIKE, INT_LIKE, TYPES, exp, get, like_of, put, row_at
from acceleration.parallel import ParallelKernel, as_float, bits, next_unit


def _rms_norm(like: Any) -> Callable[..., None]:
    """RMS norm of so many rows of each token, tokens lying `distance` apart; `weight` has shape (size,), float32.

    A unit is a token.

    Source: https://arxiv.org/abs/1910.07467
    """

    def rms_norm(call: Any) -> None:
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

    return rms_norm


def _add_rms_norm(like: Any) -> Callable[..., None]:
    """`more` becomes the sum of both, shape (rows, size), and `out` its RMS norm. A unit is a row."""

    def add_rms_norm(call: Any) -> None:
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

    return add_rms_norm


def _add_layer_norm(like: Any) -> Callable[..., None]:
    """`out` becomes the layer norm of the sum of `x` and `more`, shape (rows, size); it may be one of them.

    `weight` and `bias` have shape (size,), float32. A unit is a row.

    Source: https://arxiv.org/abs/1607.06450
    """

    def add_layer_norm(call: Any) -> None:
        numbers = carray(call, 9)
        x, more, out, size = numbers[2], numbers[3], numbers[6], numbers[7]
        factors, added = row_at(numbers[4], 0, size, FLOAT_LIKE), row_at(numbers[5], 0, size, FLOAT_LIKE)
        eps, sums = np.float32(as_float(numbers[8])), np.empty(size, np.float32)
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

    return add_layer_norm


def _gelu(like: Any) -> Callable[..., None]:
    """x Φ(x) in place, shape (rows, size), within 2e-7 x of it. A unit is a row.

    Source: https://arxiv.org/abs/1606.08415; the error function by formula 7.1.26 of Abramowitz and Stegun,
    https://personal.math.ubc.ca/~cbm/aands/page_299.htm
    """

    def gelu(call: Any) -> None:
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

    return gelu


def _gate(like: Any) -> Callable[..., None]:
    """x / (1 + exp(-x (linear + cubic x²))) of rows, times those at `up`, which lie as far apart. A unit is a row."""

    def gate(call: Any) -> None:
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

    return gate


def _rotate(like: Any) -> Callable[..., None]:
    """Rotary positions: heads of each token, tokens lying `distance` apart, by angles of shape (tokens, size).

    A unit is a token.

    Source: https://arxiv.org/abs/2104.09864
    """

    def rotate(call: Any) -> None:
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

    return rotate


def _keep(like: Any) -> Callable[..., None]:
    """Copy rows that lie `distance` apart to their places in a tensor of shape (places, size).

    A unit is one of those that `which` says, and its place is at the same index of `places`.
    """

    def keep(call: Any) -> None:
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

    return keep


def _attention(size: int, value_size: int, shared: int, like: Any) -> Callable[..., None]:
    """Attention for heads of one size, which the compiler must know for loops that are fast.

    One token of each sequence, whose heads lie side by side and the next one's `distance` apart. Keys and values have
    shape (places, capacity, key_heads, size). A sequence's are at its place among `indices`, up to its token, which
    stands at its place among `positions`; with a window it sees no further back. A unit is so many key heads of a
    sequence: all of them are read in the order in which they lie in memory.
    """

    def attend(call: Any) -> None:
        numbers = carray(call, 14)
        query, keys, values, out, indices, positions = (
            numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7],
        )  # fmt: skip
        capacity, key_heads, heads, distance, window = numbers[8], numbers[9], numbers[10], numbers[11], numbers[12]
        scale = np.float32(as_float(numbers[13]))
        parts, every = key_heads // heads, heads * shared
        asked, summed = np.empty((every, size), np.float32), np.empty((every, value_size), np.float32)
        scores, highest = np.empty((every, capacity), np.float32), np.empty(every, np.float32)
        unit = next_unit(call)
        while unit < numbers[1]:
            sequence, key_head = unit // parts, unit % parts * heads
            end = row_at(positions, sequence, 1, INT_LIKE)[0] + 1
            first = max(end - window, 0) if window > 0 else 0
            start = row_at(indices, sequence, 1, INT_LIKE)[0] * capacity + first
            for head in range(every):
                own = row_at(query, sequence * distance + (key_head * shared + head) * size, size, like)
                for i in range(size):
                    asked[head, i] = get(own, i) * scale
                highest[head] = np.float32(-np.inf)
            for token in range(end - first):
                for head in range(every):
                    key = row_at(keys, ((start + token) * key_heads + key_head + head // shared) * size, size, like)
                    score = np.float32(0)
                    for i in range(size):
                        score += asked[head, i] * get(key, i)
                    scores[head, token] = score
                    highest[head] = max(highest[head], score)
            for head in range(every):
                total, most = np.float32(0), highest[head]
                for token in range(end - first):
                    weight = exp(scores[head, token] - most)
                    scores[head, token] = weight
                    total += weight
                for token in range(end - first):
                    scores[head, token] /= total
            summed[:] = np.float32(0)
            for token in range(end - first):
                for head in range(every):
                    value = row_at(
                        values, ((start + token) * key_heads + key_head + head // shared) * value_size, value_size, like
                    )
                    weight = scores[head, token]
                    for i in range(value_size):
                        summed[head, i] += weight * get(value, i)
            for head in range(every):
                attended = row_at(
                    out, ((sequence * key_heads + key_head) * shared + head) * value_size, value_size, like
                )
                for i in range(value_size):
                    put(attended, i, summed[head, i])
            unit = next_unit(call)

    return attend


class Kernels:
    """Kernels for numbers of one type, each called with the number of units and then what it reads from its call.

    Args:
        dtype: float32 or bfloat16.
        folder: where they are kept once they are compiled, which takes some seconds.

    Attributes:
        dtype, folder: as they were given.
    """

    #: A number that is not whole, as an argument.
    bits = staticmethod(bits)

    def __init__(self, dtype: torch.dtype, folder: Path) -> None:
        self.dtype = dtype
        self.folder = folder
        self._like = like_of(dtype)
        self.rms_norm = self._compiled(_rms_norm)
        self.add_rms_norm = self._compiled(_add_rms_norm)
        self.rotate = self._compiled(_rotate)
        self.keep = self._compiled(_keep)
        self.add_layer_norm = self._compiled(_add_layer_norm)
        self.gate, self.gelu = self._compiled(_gate), self._compiled(_gelu)
        self._attentions: dict[tuple[int, int, int], ParallelKernel] = {}
        self._texts = AttentionKernels(dtype, folder) if AttentionKernels.compute() else None

    def attend(self, size: int, value_size: int, shared: int) -> ParallelKernel:
        """The kernel for heads of a size, of which so many share keys; compiled when it is first asked for."""
        kind = size, value_size, shared
        if kind not in self._attentions:
            self._attentions[kind] = self._compiled(partial(_attention, *kind))
        return self._attentions[kind]

    def texts(self, size: int, value_size: int) -> ParallelKernel | None:
        """That of `AttentionKernels` for heads of a size, if there is one; compiled when it is first asked for."""
        return self._texts.of(size, value_size) if self._texts and self._texts.fit(size, value_size) else None

    @staticmethod
    def compute(dtype: torch.dtype) -> bool:
        """Whether there are kernels for numbers of a type."""
        return dtype in TYPES

    def _compiled(self, function: Callable[[Any], Callable[..., None]]) -> ParallelKernel:
        return ParallelKernel(function(self._like), self.folder)

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
from numba import carray, njit, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

from acceleration.parallel import OPTIONS, ParallelKernel, as_float, bits, kept_in, next_unit

#: What PyTorch's types are in memory, for a compiler that does not know bfloat16.
_TYPES = {torch.float32: types.float32, torch.bfloat16: types.uint16}

#: Numbers that are compared side by side.
_LANES = 16


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


def _get(numbers: Any, index: int) -> np.float32:
    """One of some numbers, as float32."""
    raise NotImplementedError  # only Numba calls it


def _put(numbers: Any, index: int, value: np.float32) -> None:
    """Set one of some numbers, rounded to the nearest."""
    raise NotImplementedError


@overload(_get, strict=False)
def _get_of(numbers: Any, index: Any) -> Any:
    def get(numbers: Any, index: Any) -> Any:
        return numbers[index]

    def widen(numbers: Any, index: Any) -> Any:
        return np.uint32(np.uint32(numbers[index]) << np.uint32(16)).view(np.float32)

    return get if numbers.dtype == types.float32 else widen


@overload(_put, strict=False)
def _put_of(numbers: Any, index: Any, value: Any) -> Any:
    def put(numbers: Any, index: Any, value: Any) -> None:
        numbers[index] = value

    def narrow(numbers: Any, index: Any, value: Any) -> None:
        bits = np.float32(value).view(np.uint32)
        to_even = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        numbers[index] = np.uint16(np.uint32(bits + to_even + np.uint32(0x7FFF)) >> np.uint32(16))

    return put if numbers.dtype == types.float32 else narrow


@njit(inline="always", **OPTIONS)
def _exp(x: Any) -> Any:
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
        factors, eps = row_at(weight, 0, size, _FLOAT_LIKE), np.float32(as_float(numbers[9]))
        token = next_unit(call)
        while token < numbers[1]:
            for row in range(rows):
                given = row_at(x, token * distance + row * size, size, like)
                normed = row_at(out, token * out_distance + row * size, size, like)
                squares = np.float32(0)
                for i in range(size):
                    number = _get(given, i)
                    squares += number * number
                scale = np.float32(1) / np.float32(math.sqrt(squares / np.float32(size) + eps))
                for i in range(size):
                    _put(normed, i, factors[i] * (_get(given, i) * scale))
            token = next_unit(call)

    return rms_norm


def _add_rms_norm(like: Any) -> Callable[..., None]:
    """`more` becomes the sum of both, shape (rows, size), and `out` its RMS norm. A unit is a row."""

    def add_rms_norm(call: Any) -> None:
        numbers = carray(call, 8)
        x, more, weight, out, size = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
        factors, eps = row_at(weight, 0, size, _FLOAT_LIKE), np.float32(as_float(numbers[7]))
        row = next_unit(call)
        while row < numbers[1]:
            given, sums = row_at(x, row * size, size, like), row_at(more, row * size, size, like)
            normed = row_at(out, row * size, size, like)
            squares = np.float32(0)
            for i in range(size):
                number = _get(given, i) + _get(sums, i)
                _put(sums, i, number)
                squares += number * number
            scale = np.float32(1) / np.float32(math.sqrt(squares / np.float32(size) + eps))
            for i in range(size):
                _put(normed, i, factors[i] * (_get(sums, i) * scale))
            row = next_unit(call)

    return add_rms_norm


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
                x = _get(gates, i)
                less = np.float32(1) + _exp(-x * (linear + cubic * x * x))
                _put(gated, i, x / less * _get(ups, i))
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
                    number1, number2 = _get(first, i), _get(second, i)
                    _put(rotated1, i, number1 * _get(cos1, i) - number2 * _get(sin1, i))
                    _put(rotated2, i, number2 * _get(cos2, i) + number1 * _get(sin2, i))
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
        rows, where = row_at(which, 0, numbers[1], _INT_LIKE), row_at(places, 0, numbers[1], _INT_LIKE)
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
            end = row_at(positions, sequence, 1, _INT_LIKE)[0] + 1
            first = max(end - window, 0) if window > 0 else 0
            start = row_at(indices, sequence, 1, _INT_LIKE)[0] * capacity + first
            for head in range(every):
                own = row_at(query, sequence * distance + (key_head * shared + head) * size, size, like)
                for i in range(size):
                    asked[head, i] = _get(own, i) * scale
                highest[head] = np.float32(-np.inf)
            for token in range(end - first):
                for head in range(every):
                    key = row_at(keys, ((start + token) * key_heads + key_head + head // shared) * size, size, like)
                    score = np.float32(0)
                    for i in range(size):
                        score += asked[head, i] * _get(key, i)
                    scores[head, token] = score
                    highest[head] = max(highest[head], score)
            for head in range(every):
                total, most = np.float32(0), highest[head]
                for token in range(end - first):
                    weight = _exp(scores[head, token] - most)
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
                        summed[head, i] += weight * _get(value, i)
            for head in range(every):
                attended = row_at(
                    out, ((sequence * key_heads + key_head) * shared + head) * value_size, value_size, like
                )
                for i in range(value_size):
                    _put(attended, i, summed[head, i])
            unit = next_unit(call)

    return attend


def _reading(size: int, value_size: int, like: Any) -> Callable[..., None]:
    """Attention of a piece of a prompt, whose keys and values, and those before it, stand at `place` of a slab.

    Each of its tokens, the first of which is the sequence's `start`-th, sees those up to itself, and with a window no
    further back. Queries' heads lie side by side, the next token's `distance` apart. A unit is a head.
    """

    def read(call: Any) -> None:
        numbers = carray(call, 15)
        query, keys, values, out, place = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
        key_heads, shared, start, tokens = numbers[7], numbers[8], numbers[9], numbers[10]
        distance, out_distance, window = numbers[11], numbers[12], numbers[13]
        scale = np.float32(as_float(numbers[14]))
        first = max(start + 1 - window, 0) if window > 0 else 0
        seen = start + tokens - first
        # Keys by columns: so a query's scores are computed side by side.
        columns, scores = np.empty((size, seen), np.float32), np.empty(seen, np.float32)
        asked, summed = np.empty(size, np.float32), np.empty(value_size, np.float32)
        highest = np.empty(_LANES, np.float32)
        head = next_unit(call)
        while head < numbers[1]:
            key_head = head // shared
            for token in range(seen):
                key = row_at(keys, ((place + first + token) * key_heads + key_head) * size, size, like)
                for i in range(size):
                    columns[i, token] = _get(key, i)
            for token in range(tokens):
                own = row_at(query, token * distance + head * size, size, like)
                for i in range(size):
                    asked[i] = _get(own, i) * scale
                end = start + token + 1 - first
                begin = max(end - window, 0) if window > 0 else 0
                weights, width = scores[begin:end], end - begin
                weights[:] = np.float32(0)
                for i in range(0, size - size % 4, 4):
                    k0, k1, k2, k3 = (
                        columns[i, begin:end], columns[i + 1, begin:end], columns[i + 2, begin:end],
                        columns[i + 3, begin:end],
                    )  # fmt: skip
                    q0, q1, q2, q3 = asked[i], asked[i + 1], asked[i + 2], asked[i + 3]
                    for j in range(width):
                        weights[j] += q0 * k0[j] + q1 * k1[j] + q2 * k2[j] + q3 * k3[j]
                for i in range(size - size % 4, size):
                    k0, q0 = columns[i, begin:end], asked[i]
                    for j in range(width):
                        weights[j] += q0 * k0[j]
                highest[:] = np.float32(-np.inf)
                whole = width - width % _LANES
                for block in range(0, whole, _LANES):
                    part = weights[block : block + _LANES]
                    for j in range(_LANES):
                        highest[j] = max(highest[j], part[j])
                most = np.float32(-np.inf)
                for j in range(_LANES):
                    most = max(most, highest[j])
                for j in range(whole, width):
                    most = max(most, weights[j])
                total = np.float32(0)
                for j in range(width):
                    weight = _exp(weights[j] - most)
                    weights[j] = weight
                    total += weight
                summed[:] = np.float32(0)
                behind = (place + first + begin) * key_heads + key_head
                for j in range(0, width - width % 4, 4):
                    v0 = row_at(values, (behind + j * key_heads) * value_size, value_size, like)
                    v1 = row_at(values, (behind + (j + 1) * key_heads) * value_size, value_size, like)
                    v2 = row_at(values, (behind + (j + 2) * key_heads) * value_size, value_size, like)
                    v3 = row_at(values, (behind + (j + 3) * key_heads) * value_size, value_size, like)
                    w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
                    for i in range(value_size):
                        summed[i] += w0 * _get(v0, i) + w1 * _get(v1, i) + w2 * _get(v2, i) + w3 * _get(v3, i)
                for j in range(width - width % 4, width):
                    v0 = row_at(values, (behind + j * key_heads) * value_size, value_size, like)
                    w0 = weights[j]
                    for i in range(value_size):
                        summed[i] += w0 * _get(v0, i)
                attended = row_at(out, token * out_distance + head * value_size, value_size, like)
                for i in range(value_size):
                    _put(attended, i, summed[i] / total)
            head = next_unit(call)

    return read


_FLOAT_LIKE, _INT_LIKE = np.float32(0), np.int64(0)


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
        self._kept_in = kept_in(folder)
        self._like = np.dtype(str(_TYPES[dtype])).type(0)
        self.rms_norm = self._compiled(_rms_norm)
        self.add_rms_norm = self._compiled(_add_rms_norm)
        self.rotate = self._compiled(_rotate)
        self.keep = self._compiled(_keep)
        self.gate = self._compiled(_gate)
        self._attentions: dict[tuple[int, int, int], ParallelKernel] = {}
        self._readings: dict[tuple[int, int], ParallelKernel] = {}

    def attend(self, size: int, value_size: int, shared: int) -> ParallelKernel:
        """The kernel for heads of a size, of which so many share keys; compiled when it is first asked for."""
        kind = size, value_size, shared
        if kind not in self._attentions:
            self._attentions[kind] = self._compiled(partial(_attention, *kind))
        return self._attentions[kind]

    def read(self, size: int, value_size: int) -> ParallelKernel:
        """The kernel for pieces of prompts, likewise."""
        kind = size, value_size
        if kind not in self._readings:
            self._readings[kind] = self._compiled(partial(_reading, *kind))
        return self._readings[kind]

    @staticmethod
    def compute(dtype: torch.dtype) -> bool:
        """Whether there are kernels for numbers of a type."""
        return dtype in _TYPES

    def _compiled(self, function: Callable[[Any], Callable[..., None]]) -> ParallelKernel:
        return ParallelKernel(function(self._like), self._kept_in)

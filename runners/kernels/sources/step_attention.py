"""Attention of one token of each sequence, with the keys and values that are kept of it."""

from __future__ import annotations

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


def attention(size: int, value_size: int, shared: int, dtype: str) -> Kernel:
    """Attention for heads of one size, which the compiler must know for loops that are fast.

    One token of each sequence, whose heads lie side by side and the next one's `distance` apart. Keys and values have
    shape (places, capacity, key_heads, size). A sequence's are at its place among `indices`, up to its token, which
    stands at its place among `positions`; with a window it sees no further back. A unit is so many key heads of a
    sequence: all of them are read in the order in which they lie in memory.
    """
    like = LIKE[dtype]

    def attend(call: Any) -> None:
        numbers = carray(call, 14)
        query, keys, values, out, indices, positions = (
            numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7],
        )  # fmt: skip
        capacity, key_heads, heads, distance, window = numbers[8], numbers[9], numbers[10], numbers[11], numbers[12]
        scale = np.float32(as_float(numbers[13]))
        parts, every = key_heads // heads, heads * shared
        # For every head what is asked, what is summed, its scores, and the highest of them.
        room = allocate(every * (size + value_size + capacity + 1) * 4)
        sums, scores = room + every * size * 4, room + every * (size + value_size) * 4
        highest = row_at(scores, every * capacity, every, FLOAT_LIKE)
        unit = next_unit(call)
        while unit < numbers[1]:
            sequence, key_head = unit // parts, unit % parts * heads
            end = row_at(positions, sequence, 1, INT_LIKE)[0] + 1
            first = max(end - window, 0) if window > 0 else 0
            start = row_at(indices, sequence, 1, INT_LIKE)[0] * capacity + first
            for head in range(every):
                own = row_at(query, sequence * distance + (key_head * shared + head) * size, size, like)
                asked = row_at(room, head * size, size, FLOAT_LIKE)
                for i in range(size):
                    asked[i] = get(own, i) * scale
                highest[head] = np.float32(-np.inf)
            for token in range(end - first):
                for head in range(every):
                    key = row_at(keys, ((start + token) * key_heads + key_head + head // shared) * size, size, like)
                    asked, score = row_at(room, head * size, size, FLOAT_LIKE), np.float32(0)
                    for i in range(size):
                        score += asked[i] * get(key, i)
                    row_at(scores, head * capacity, capacity, FLOAT_LIKE)[token] = score
                    highest[head] = max(highest[head], score)
            for head in range(every):
                weights = row_at(scores, head * capacity, capacity, FLOAT_LIKE)
                total, most = np.float32(0), highest[head]
                for token in range(end - first):
                    weight = exp(weights[token] - most)
                    weights[token] = weight
                    total += weight
                for token in range(end - first):
                    weights[token] /= total
            row_at(sums, 0, every * value_size, FLOAT_LIKE)[:] = np.float32(0)
            for token in range(end - first):
                for head in range(every):
                    value = row_at(
                        values, ((start + token) * key_heads + key_head + head // shared) * value_size, value_size, like
                    )
                    weight = row_at(scores, head * capacity, capacity, FLOAT_LIKE)[token]
                    summed = row_at(sums, head * value_size, value_size, FLOAT_LIKE)
                    for i in range(value_size):
                        summed[i] += weight * get(value, i)
            for head in range(every):
                attended = row_at(
                    out, ((sequence * key_heads + key_head) * shared + head) * value_size, value_size, like
                )
                summed = row_at(sums, head * value_size, value_size, FLOAT_LIKE)
                for i in range(value_size):
                    put(attended, i, summed[i])
            unit = next_unit(call)
        release(room)

    return attend

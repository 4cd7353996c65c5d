"""Decode attention: one new token of each sequence with the keys and values in the cache."""

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
    decode_float,
    exp,
    get,
    put,
    release,
    row_at,
    take_unit,
)


def attention(size: int, value_size: int, shared: int, dtype: str) -> Kernel:
    """Return the kernel for a head size.

    The size is a constant of the code, so that LLVM can vectorize the loops.

    Each sequence has one token with contiguous heads, and tokens lie `distance` elements apart. Keys and values have
    shape (slots, capacity, key_heads, size). `indices` has the slot of each sequence, and `positions` the position of
    its token, which attends to all keys up to its own, or to those in the window. A unit is a number of key heads of
    one sequence, so that keys are read in the order of memory.
    """
    like = LIKE[dtype]

    def attend(call: Any) -> None:
        arguments = carray(call, 14)
        query, keys, values, out, indices, positions = (
            arguments[2], arguments[3], arguments[4], arguments[5], arguments[6], arguments[7],
        )  # fmt: skip
        capacity, key_heads, heads, distance, window = (
            arguments[8], arguments[9], arguments[10], arguments[11], arguments[12],
        )  # fmt: skip
        scale = np.float32(decode_float(arguments[13]))
        groups, query_heads = key_heads // heads, heads * shared
        # For each query head: its scaled query, its weighted sum, its scores, and the highest score.
        buffer = allocate(query_heads * (size + value_size + capacity + 1) * 4)
        sums, scores = buffer + query_heads * size * 4, buffer + query_heads * (size + value_size) * 4
        highest = row_at(scores, query_heads * capacity, query_heads, FLOAT_LIKE)
        unit = take_unit(call)
        while unit < arguments[1]:
            sequence, key_head = unit // groups, unit % groups * heads
            end = row_at(positions, sequence, 1, INT_LIKE)[0] + 1
            first = max(end - window, 0) if window > 0 else 0
            start = row_at(indices, sequence, 1, INT_LIKE)[0] * capacity + first
            for head in range(query_heads):
                source = row_at(query, sequence * distance + (key_head * shared + head) * size, size, like)
                scaled = row_at(buffer, head * size, size, FLOAT_LIKE)
                for i in range(size):
                    scaled[i] = get(source, i) * scale
                highest[head] = np.float32(-np.inf)
            for token in range(end - first):
                for head in range(query_heads):
                    key = row_at(keys, ((start + token) * key_heads + key_head + head // shared) * size, size, like)
                    scaled, score = row_at(buffer, head * size, size, FLOAT_LIKE), np.float32(0)
                    for i in range(size):
                        score += scaled[i] * get(key, i)
                    row_at(scores, head * capacity, capacity, FLOAT_LIKE)[token] = score
                    highest[head] = max(highest[head], score)
            for head in range(query_heads):
                weights = row_at(scores, head * capacity, capacity, FLOAT_LIKE)
                total, largest = np.float32(0), highest[head]
                for token in range(end - first):
                    weight = exp(weights[token] - largest)
                    weights[token] = weight
                    total += weight
                for token in range(end - first):
                    weights[token] /= total
            row_at(sums, 0, query_heads * value_size, FLOAT_LIKE)[:] = np.float32(0)
            for token in range(end - first):
                for head in range(query_heads):
                    value = row_at(
                        values, ((start + token) * key_heads + key_head + head // shared) * value_size, value_size, like
                    )
                    weight = row_at(scores, head * capacity, capacity, FLOAT_LIKE)[token]
                    summed = row_at(sums, head * value_size, value_size, FLOAT_LIKE)
                    for i in range(value_size):
                        summed[i] += weight * get(value, i)
            for head in range(query_heads):
                attended = row_at(
                    out, ((sequence * key_heads + key_head) * shared + head) * value_size, value_size, like
                )
                summed = row_at(sums, head * value_size, value_size, FLOAT_LIKE)
                for i in range(value_size):
                    put(attended, i, summed[i])
            unit = take_unit(call)
        release(buffer)

    return attend

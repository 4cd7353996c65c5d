"""Attention over whole sequences, or prefill chunks, as matrix products of tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from runners.kernels.layout import LANES, PANEL_STEP_BYTES, SEQUENCE_FIELDS, TILE_PANELS, TILE_ROWS
from runners.kernels.sources.float32_tiles import compute_narrow_tile, compute_tile
from runners.kernels.sources.language import (
    FLOAT_LIKE,
    INT_LIKE,
    LIKE,
    OPTIONS,
    Code,
    Kernel,
    allocate,
    declare_function,
    decode_float,
    exp,
    get,
    put,
    release,
    row_at,
    take_unit,
)
from runners.kernels.sources.prefetch import AHEAD

#: Tokens in a block, whose scores are computed together.
_BLOCK = 64

#: Alignment of panels in bytes.
_ALIGNED = 64


def attention(size: int, value_size: int, dtype: str) -> Kernel:
    """Return the kernel for a head size.

    `runners.kernels.kernels.Kernels.get_sequence_attention` documents its arguments.
    """
    like = LIKE[dtype]

    def attend(call: Any) -> None:
        arguments = carray(call, 15)
        query, keys, values, out, sequences = arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]
        heads, shared, distance, key_distance = arguments[7], arguments[8], arguments[9], arguments[10]
        value_distance, out_distance, window = arguments[11], arguments[12], arguments[13]
        scale = np.float32(decode_float(arguments[14]))
        unit, capacity, memory = take_unit(call), 0, 0
        while unit < arguments[1]:
            fields, head = row_at(sequences, unit // heads * SEQUENCE_FIELDS, SEQUENCE_FIELDS, INT_LIKE), unit % heads
            first, first_key, tokens, key_count, first_visible = fields[0], fields[1], fields[2], fields[3], fields[4]
            width = -(-key_count // LANES) * LANES
            # Queries, scores and outputs of a block; panels of keys and of values; zeros in place of a bias.
            needed = _BLOCK * (size + width + value_size) + width * (size + value_size) + max(width, value_size)
            if needed > capacity:
                release(memory)
                memory, capacity = allocate(needed * 4 + _ALIGNED), needed
            key_panels = (memory + _ALIGNED - 1) // _ALIGNED * _ALIGNED
            value_panels = key_panels + width * size * 4
            scaled_queries = value_panels + width * value_size * 4
            scores = scaled_queries + _BLOCK * size * 4
            weighted_sums = scores + _BLOCK * width * 4
            zero_bias = weighted_sums + _BLOCK * value_size * 4
            row_at(zero_bias, 0, max(width, value_size), FLOAT_LIKE)[:] = np.float32(0)
            for key in range(width):
                panel = row_at(key_panels, key // LANES * LANES * size + key % LANES, size * LANES, FLOAT_LIKE)
                if key < key_count:
                    source = row_at(keys, (first_key + key) * key_distance + head // shared * size, size, like)
                    for i in range(size):
                        panel[i * LANES] = get(source, i)
                else:
                    for i in range(size):
                        panel[i * LANES] = np.float32(0)
            for key in range(width):
                for start in range(0, value_size, LANES):
                    panel = row_at(value_panels, start * width + key * LANES, LANES, FLOAT_LIKE)
                    if key < key_count:
                        offset = (first_key + key) * value_distance + head // shared * value_size + start
                        source = row_at(values, offset, LANES, like)
                        for i in range(LANES):
                            panel[i] = get(source, i)
                    else:
                        panel[:] = np.float32(0)
            for block in range(0, tokens, _BLOCK):
                rows = min(tokens - block, _BLOCK)
                for row in range(rows):
                    source = row_at(query, (first + block + row) * distance + head * size, size, like)
                    scaled = row_at(scaled_queries, row * size, size, FLOAT_LIKE)
                    for i in range(size):
                        scaled[i] = get(source, i) * scale
                # The last token of the block attends to the most keys.
                visible = min(first_visible + block + rows - 1, key_count)
                used = -(-visible // LANES) * LANES
                _multiply(scaled_queries, key_panels, scores, zero_bias, rows, size, width, used)
                for row in range(rows):
                    end = min(first_visible + block + row, key_count)
                    begin = max(end - window, 0) if window > 0 else 0
                    weights = row_at(scores, row * width, width, FLOAT_LIKE)
                    for j in range(begin):
                        weights[j] = np.float32(-np.inf)
                    for j in range(end, width):
                        weights[j] = np.float32(-np.inf)
                    largest, total = find_largest(scores + row * width * 4, used), np.float32(0)
                    for j in range(used):
                        weight = exp(weights[j] - largest)
                        weights[j] = weight
                        total += weight
                    for j in range(begin):
                        weights[j] = np.float32(0)
                    for j in range(end, width):
                        weights[j] = np.float32(0)
                    # Masked scores have added almost nothing to `total`.
                    factor = np.float32(1) / total
                    for j in range(used):
                        weights[j] *= factor
                _multiply(scores, value_panels, weighted_sums, zero_bias, rows, width, value_size, value_size)
                for row in range(rows):
                    result = row_at(weighted_sums, row * value_size, value_size, FLOAT_LIKE)
                    offset = (first + block + row) * out_distance + head * value_size
                    attended = row_at(out, offset, value_size, like)
                    for i in range(value_size):
                        put(attended, i, result[i])
            unit = take_unit(call)
        release(memory)

    return attend


@njit(**OPTIONS)
def _multiply(x: int, panels: int, out: int, bias: int, rows: int, size: int, width: int, used: int) -> None:
    """Compute the first `used` outputs of rows, rounded up to whole tiles."""
    number, ahead = used // LANES, panels + AHEAD
    for row in range(0, rows, TILE_ROWS):
        inputs, result = x + row * size * 4, out + row * width * 4
        for panel in range(0, number - number % TILE_PANELS, TILE_PANELS):
            compute_tile(inputs, panels, result, bias, size, width, panel, ahead, PANEL_STEP_BYTES)
        for panel in range(number - number % TILE_PANELS, number):
            compute_narrow_tile(inputs, panels, result, bias, size, width, panel, ahead, PANEL_STEP_BYTES)


@intrinsic
def find_largest(_context: Any, address: Any, number: Any) -> Code:
    """Find the largest of float32 values, ignoring NaN; their number must be a multiple of 16."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        long, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
        before, loop, after = builder.block, builder.append_basic_block("part"), builder.append_basic_block("all")
        builder.branch(loop)
        builder.position_at_end(loop)
        index, most = builder.phi(long), builder.phi(vector)
        index.add_incoming(ir.Constant(long, 0), before)
        most.add_incoming(ir.Constant(vector, [float("-inf")] * LANES), before)
        at = builder.add(arguments[0], builder.mul(index, ir.Constant(long, 4)))
        part = builder.load(builder.inttoptr(at, vector.as_pointer()))
        part.align = 4
        larger = builder.select(builder.fcmp_ordered(">", part, most), part, most)
        most.add_incoming(larger, loop)
        next_index = builder.add(index, ir.Constant(long, LANES))
        index.add_incoming(next_index, loop)
        builder.cbranch(builder.icmp_signed("<", next_index, arguments[1]), loop, after)
        builder.position_at_end(after)
        kind = ir.FunctionType(ir.FloatType(), [vector])
        return builder.call(declare_function(builder, "llvm.vector.reduce.fmax.v16f32", kind), [larger])

    return types.float32(address, number), build

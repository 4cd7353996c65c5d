"""Attention of whole texts, or of pieces of prompts, as products of tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from runners.kernels.layout import LANES, PANEL_STEP, PANELS, ROWS, SEQUENCE_FIELDS
from runners.kernels.sources.float32_tiles import narrow_tile, tile
from runners.kernels.sources.language import (
    FLOAT_LIKE,
    INT_LIKE,
    LIKE,
    OPTIONS,
    Code,
    Kernel,
    allocate,
    as_float,
    exp,
    function,
    get,
    next_unit,
    put,
    release,
    row_at,
)
from runners.kernels.sources.prefetch import AHEAD

#: Tokens whose scores are computed at once.
_BLOCK = 64

#: Bytes.
_ALIGNED = 64


def attention(size: int, value_size: int, dtype: str) -> Kernel:
    """Attention for heads of a size; see `runners.kernels.attention_kernels` for what it is given."""
    like = LIKE[dtype]

    def attend(call: Any) -> None:
        numbers = carray(call, 15)
        query, keys, values, out, texts = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
        heads, shared, distance, key_distance = numbers[7], numbers[8], numbers[9], numbers[10]
        value_distance, out_distance, window = numbers[11], numbers[12], numbers[13]
        scale = np.float32(as_float(numbers[14]))
        unit, room, memory = next_unit(call), 0, 0
        while unit < numbers[1]:
            text, head = row_at(texts, unit // heads * SEQUENCE_FIELDS, SEQUENCE_FIELDS, INT_LIKE), unit % heads
            first, first_key, tokens, seen, sees = text[0], text[1], text[2], text[3], text[4]
            width = -(-seen // LANES) * LANES
            # Queries, scores and outputs of a block; panels of keys and of values; noughts for what has no bias.
            needed = _BLOCK * (size + width + value_size) + width * (size + value_size) + max(width, value_size)
            if needed > room:
                release(memory)
                memory, room = allocate(needed * 4 + _ALIGNED), needed
            key_panels = (memory + _ALIGNED - 1) // _ALIGNED * _ALIGNED
            value_panels = key_panels + width * size * 4
            asked = value_panels + width * value_size * 4
            scores = asked + _BLOCK * size * 4
            weighed = scores + _BLOCK * width * 4
            nothing = weighed + _BLOCK * value_size * 4
            row_at(nothing, 0, max(width, value_size), FLOAT_LIKE)[:] = np.float32(0)
            for key in range(width):
                panel = row_at(key_panels, key // LANES * LANES * size + key % LANES, size * LANES, FLOAT_LIKE)
                if key < seen:
                    own = row_at(keys, (first_key + key) * key_distance + head // shared * size, size, like)
                    for i in range(size):
                        panel[i * LANES] = get(own, i)
                else:
                    for i in range(size):
                        panel[i * LANES] = np.float32(0)
            for key in range(width):
                for start in range(0, value_size, LANES):
                    panel = row_at(value_panels, start * width + key * LANES, LANES, FLOAT_LIKE)
                    if key < seen:
                        where = (first_key + key) * value_distance + head // shared * value_size + start
                        own = row_at(values, where, LANES, like)
                        for i in range(LANES):
                            panel[i] = get(own, i)
                    else:
                        panel[:] = np.float32(0)
            for block in range(0, tokens, _BLOCK):
                rows = min(tokens - block, _BLOCK)
                for row in range(rows):
                    own = row_at(query, (first + block + row) * distance + head * size, size, like)
                    scaled = row_at(asked, row * size, size, FLOAT_LIKE)
                    for i in range(size):
                        scaled[i] = get(own, i) * scale
                # Nobody sees more than the last of the block.
                most_seen = min(sees + block + rows - 1, seen)
                used = -(-most_seen // LANES) * LANES
                _multiply(asked, key_panels, scores, nothing, rows, size, width, used)
                for row in range(rows):
                    end = min(sees + block + row, seen)
                    begin = max(end - window, 0) if window > 0 else 0
                    weights = row_at(scores, row * width, width, FLOAT_LIKE)
                    for j in range(begin):
                        weights[j] = np.float32(-np.inf)
                    for j in range(end, width):
                        weights[j] = np.float32(-np.inf)
                    most, total = largest(scores + row * width * 4, used), np.float32(0)
                    for j in range(used):
                        weight = exp(weights[j] - most)
                        weights[j] = weight
                        total += weight
                    for j in range(begin):
                        weights[j] = np.float32(0)
                    for j in range(end, width):
                        weights[j] = np.float32(0)
                    # What is not seen has had next to no weight.
                    part = np.float32(1) / total
                    for j in range(used):
                        weights[j] *= part
                _multiply(scores, value_panels, weighed, nothing, rows, width, value_size, value_size)
                for row in range(rows):
                    result = row_at(weighed, row * value_size, value_size, FLOAT_LIKE)
                    where = (first + block + row) * out_distance + head * value_size
                    attended = row_at(out, where, value_size, like)
                    for i in range(value_size):
                        put(attended, i, result[i])
            unit = next_unit(call)
        release(memory)

    return attend


@njit(**OPTIONS)
def _multiply(x: int, panels: int, out: int, bias: int, rows: int, size: int, width: int, used: int) -> None:
    """The first `used` outputs of rows, filled up to whole tiles."""
    number, ahead = used // LANES, panels + AHEAD
    for row in range(0, rows, ROWS):
        given, result = x + row * size * 4, out + row * width * 4
        for panel in range(0, number - number % PANELS, PANELS):
            tile(given, panels, result, bias, size, width, panel, ahead, PANEL_STEP)
        for panel in range(number - number % PANELS, number):
            narrow_tile(given, panels, result, bias, size, width, panel, ahead, PANEL_STEP)


@intrinsic
def largest(_context: Any, address: Any, number: Any) -> Code:
    """The largest of so many numbers of float32, a multiple of 16 of them; what is none is passed over."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        long, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
        before, loop, behind = builder.block, builder.append_basic_block("part"), builder.append_basic_block("all")
        builder.branch(loop)
        builder.position_at_end(loop)
        place, most = builder.phi(long), builder.phi(vector)
        place.add_incoming(ir.Constant(long, 0), before)
        most.add_incoming(ir.Constant(vector, [float("-inf")] * LANES), before)
        at = builder.add(arguments[0], builder.mul(place, ir.Constant(long, 4)))
        part = builder.load(builder.inttoptr(at, vector.as_pointer()))
        part.align = 4
        larger = builder.select(builder.fcmp_ordered(">", part, most), part, most)
        most.add_incoming(larger, loop)
        following = builder.add(place, ir.Constant(long, LANES))
        place.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, arguments[1]), loop, behind)
        builder.position_at_end(behind)
        kind = ir.FunctionType(ir.FloatType(), [vector])
        return builder.call(function(builder, "llvm.vector.reduce.fmax.v16f32", kind), [larger])

    return types.float32(address, number), build

"""Attention of whole texts, or of pieces of prompts, as products of tiles.

PyTorch's is made for long texts, and is called for each by itself. Here a unit is a head of a text; keys and values are
put into panels, so that scores and what they weigh are products like those of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from acceleration.float32_kernels import Float32Kernels, narrow_tile, tile
from acceleration.numbers import FLOAT_LIKE, INT_LIKE, exp, get, like_of, put, row_at
from acceleration.parallel import OPTIONS, Code, ParallelKernel, as_float, bits, next_unit
from acceleration.tiles import LANES, PANELS, ROWS

#: Numbers that say what a text is: its first token, its first key, how many of both there are, and how many keys the
#: first token sees, the next one more, and so on.
TEXT = 5

#: Tokens whose scores are computed at once.
_BLOCK = 64

#: Numbers in 64 bytes.
_ALIGNED = 16


class AttentionKernels:
    """Kernels for numbers of one type; to be made only where they `compute`.

    Args:
        dtype: float32 or bfloat16; computed in float32.
        folder: where they are kept once they are compiled.
    """

    bits = staticmethod(bits)

    def __init__(self, dtype: torch.dtype, folder: Path) -> None:
        self._like, self._folder = like_of(dtype), folder
        self._kernels: dict[tuple[int, int], ParallelKernel] = {}

    @staticmethod
    def compute() -> bool:
        """Whether the processor has the instructions."""
        return Float32Kernels.compute()

    @staticmethod
    def fit(size: int, value_size: int) -> bool:
        """Whether heads fill whole registers."""
        return size % LANES == 0 and value_size % LANES == 0

    def of(self, size: int, value_size: int) -> ParallelKernel:
        """The kernel for heads of a size; compiled when it is first asked for.

        A unit is a head of a text. It is given: addresses of queries, keys, values and outputs; the address of `TEXT`
        numbers for each text; the number of heads, and how many share a key; the distances of a token's queries, keys,
        values and outputs from the next one's; how far back a token sees, 0 if there is no limit; and the scale.
        """
        kind = size, value_size
        if kind not in self._kernels:
            self._kernels[kind] = ParallelKernel(_attention(*kind, self._like), self._folder)
        return self._kernels[kind]


def _attention(size: int, value_size: int, like: Any) -> Callable[..., None]:
    def attend(call: Any) -> None:
        numbers = carray(call, 15)
        query, keys, values, out, texts = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
        heads, shared, distance, key_distance = numbers[7], numbers[8], numbers[9], numbers[10]
        value_distance, out_distance, window = numbers[11], numbers[12], numbers[13]
        scale = np.float32(as_float(numbers[14]))
        unit, room = next_unit(call), 0
        memory = np.empty(0, np.float32)
        while unit < numbers[1]:
            text, head = row_at(texts, unit // heads * TEXT, TEXT, INT_LIKE), unit % heads
            first, first_key, tokens, seen, sees = text[0], text[1], text[2], text[3], text[4]
            width = -(-seen // LANES) * LANES
            # Queries, scores and outputs of a block; panels of keys and of values; noughts for what has no bias.
            needed = _BLOCK * (size + width + value_size) + width * (size + value_size) + max(width, value_size)
            if needed > room:
                memory, room = np.empty(needed + _ALIGNED, np.float32), needed
            key_panels = (memory.ctypes.data + 63) // 64 * 64
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

    return attend


@njit(**OPTIONS)
def _multiply(x: int, panels: int, out: int, bias: int, rows: int, size: int, width: int, used: int) -> None:
    """The first `used` outputs of rows, filled up to whole tiles."""
    number = used // LANES
    for row in range(0, rows, ROWS):
        given, result = x + row * size * 4, out + row * width * 4
        for panel in range(0, number - number % PANELS, PANELS):
            tile(given, panels, result, bias, size, width, panel)
        for panel in range(number - number % PANELS, number):
            narrow_tile(given, panels, result, bias, size, width, panel)


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
        name = "llvm.vector.reduce.fmax.v16f32"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.call(function, [larger])

    return types.float32(address, number), build

"""Products of layers of eight bits, and how their inputs are rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from runners.kernels.layout import PANEL_STEP, PANELS, ROWS, STEP
from runners.kernels.sources.language import BITS_LIKE, BYTE_LIKE, FLOAT_LIKE, Code, function, next_unit, row_at
from runners.kernels.sources.prefetch import asked_for, followed_by, unit_at
from runners.kernels.sources.tile_builder import TileBuilder

#: Added to a number of at most 22 bits, it leaves the number, rounded and by 128 larger, in the last bits.
_ROUNDED, _LARGEST = np.float32((3 << 22) + 128), np.float32(127)

#: All bits of a number but that of its sign, and those of 1e-30: no unit is nought.
_NO_SIGN, _TINY_BITS = np.uint32(0x7FFFFFFF), np.float32(1e-30).view(np.uint32)


def round_rows(call: Any) -> None:
    """Each row in units of its largest number's 127th part, by 128 larger so that it needs no sign."""
    numbers = carray(call, 7)
    x, rounded, units, size, distance = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    rows, row = numbers[1], next_unit(call)
    while row < rows:
        given, result = row_at(x, row * distance, size, FLOAT_LIKE), row_at(rounded, row * size, size, BYTE_LIKE)
        # As whole numbers, which are in the same order and no vector instruction has to ask whether they are numbers.
        # What is none is the largest.
        bits, most = row_at(x, row * distance, size, BITS_LIKE), _TINY_BITS
        for i in range(size):
            most = max(most, np.uint32(bits[i] & _NO_SIGN))
        largest = np.uint32(most).view(np.float32)
        factor = _LARGEST / largest
        for i in range(size):
            result[i] = np.uint8(np.float32(given[i] * factor + _ROUNDED).view(np.uint32))
        row_at(units, row, 1, FLOAT_LIKE)[0] = largest / _LARGEST
        row = next_unit(call)


def multiply(call: Any) -> None:
    """A unit is a block of rows with a group of registers of outputs."""
    numbers = carray(call, 14)
    x, units, weights, out, zeros = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    scales, bias, rows, size, width = numbers[7], numbers[8], numbers[9], numbers[10], numbers[11]
    block, groups = numbers[12], numbers[13]
    group_bytes = PANELS * (size // STEP) * PANEL_STEP
    unit, cold = next_unit(call), 1
    while unit < numbers[1]:
        first, tiles, panel, last = unit_at(unit, rows, block, groups, PANELS, width)
        following, apart = followed_by(call, unit, numbers[1], tiles, groups)
        for number in range(tiles):
            row = first + number * ROWS
            given, unit_of, result = x + row * size, units + row * 4, out + row * width * 4
            ahead, stride = asked_for(weights, weights + apart * group_bytes, size, number, tiles, cold)
            if last - panel == PANELS:
                _tile(given, unit_of, weights, result, zeros, scales, bias, size, width, panel, ahead, stride)
            else:
                for one in range(panel, last):
                    _narrow_tile(given, unit_of, weights, result, zeros, scales, bias, size, width, one, ahead, stride)
        unit, cold = next_unit(call) if following == unit else following, 0


class _Tile(TileBuilder):
    """(sum - zero) scale unit + bias."""

    SUMS, INPUT = TileBuilder.INTS, TileBuilder.INT

    _BYTES = ir.VectorType(TileBuilder.BYTE, 64)

    def __init__(self, builder: Any, shape: tuple[int, int], arguments: Any) -> None:
        x, self._units, weights, out, zeros, scales, bias, size, width, panel, ahead, stride = arguments
        super().__init__(builder, shape, x, weights, out, size, width, panel, ahead, stride)
        self._zeros, self._scales, self._bias = (builder.add(a, self.first) for a in (zeros, scales, bias))

    def multiplied(self, total: Any, inputs: Any, weights: Any) -> Any:
        kind = ir.FunctionType(self.INTS, [self.INTS, self._BYTES, self._BYTES])
        called = function(self.builder, "llvm.x86.avx512.vpdpbusd.512", kind)
        return self.builder.call(called, [total, *(self.builder.bitcast(n, self._BYTES) for n in (inputs, weights))])

    def finished(self, sums: list[Any], place: Any) -> list[Any]:
        builder = self.builder
        zeros = self.load(builder.add(self._zeros, place), self.INTS, 4)
        scales = self.load(builder.add(self._scales, place), self.FLOATS, 4)
        bias = self.load(builder.add(self._bias, place), self.FLOATS, 4)
        outputs = []
        for row, total in enumerate(sums):
            unit = self.spread(self.load(builder.add(self._units, self.long(4 * row)), self.FLOAT, 4), self.FLOATS)
            product = builder.fmul(builder.sitofp(builder.sub(total, zeros), self.FLOATS), scales)
            outputs.append(builder.fadd(builder.fmul(product, unit), bias))
        return outputs


def _tile_of(panels: int) -> Callable[..., Any]:
    @intrinsic
    def tile(
        _context: Any, x: Any, units: Any, weights: Any, out: Any, zeros: Any, scales: Any, bias: Any, size: Any,
        width: Any, panel: Any, ahead: Any, stride: Any,
    ) -> Code:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Tile(builder, (ROWS, panels), arguments).build()
            return context.get_dummy_value()

        return types.void(x, units, weights, out, zeros, scales, bias, size, width, panel, ahead, stride), build

    return tile  # type: ignore[no-any-return]


_tile, _narrow_tile = _tile_of(PANELS), _tile_of(1)

"""Kernels for int8 layers: rounding of inputs, and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from runners.kernels.layout import PANEL_STEP_BYTES, STEP_BYTES, TILE_PANELS, TILE_ROWS
from runners.kernels.sources.language import BITS_LIKE, BYTE_LIKE, FLOAT_LIKE, Code, declare_function, row_at, take_unit
from runners.kernels.sources.prefetch import choose_prefetch, locate_unit, take_following_unit
from runners.kernels.sources.tile_builder import TileBuilder

#: `_ROUNDING_OFFSET` added to a float of at most 22 bits leaves the rounded value plus 128 in the lowest bits.
_ROUNDING_OFFSET, _LARGEST = np.float32((3 << 22) + 128), np.float32(127)

#: All bits of a float except its sign, and the bits of 1e-30, so that no scale is zero.
_NO_SIGN, _TINY_BITS = np.uint32(0x7FFFFFFF), np.float32(1e-30).view(np.uint32)


def round_rows(call: Any) -> None:
    """Round each row to uint8 with the zero point 128.

    The largest absolute value of a row becomes 127 steps.

    A unit is a row.
    """
    arguments = carray(call, 7)
    x, rounded, row_scales, size, distance = arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]
    rows, row = arguments[1], take_unit(call)
    while row < rows:
        inputs, result = row_at(x, row * distance, size, FLOAT_LIKE), row_at(rounded, row * size, size, BYTE_LIKE)
        # Compared as integers, which have the same order and need no check for NaN. A NaN counts as the largest.
        bits, largest_bits = row_at(x, row * distance, size, BITS_LIKE), _TINY_BITS
        for i in range(size):
            largest_bits = max(largest_bits, np.uint32(bits[i] & _NO_SIGN))
        largest = np.uint32(largest_bits).view(np.float32)
        factor = _LARGEST / largest
        for i in range(size):
            result[i] = np.uint8(np.float32(inputs[i] * factor + _ROUNDING_OFFSET).view(np.uint32))
        row_at(row_scales, row, 1, FLOAT_LIKE)[0] = largest / _LARGEST
        row = take_unit(call)


def multiply(call: Any) -> None:
    """Multiply rounded inputs by packed weights.

    A unit is a block of rows with a group of panels.
    """
    arguments = carray(call, 14)
    x, row_scales, weights, out, zeros = arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]
    scales, bias, rows, size, width = arguments[7], arguments[8], arguments[9], arguments[10], arguments[11]
    block, groups = arguments[12], arguments[13]
    group_bytes = TILE_PANELS * (size // STEP_BYTES) * PANEL_STEP_BYTES
    unit, cold = take_unit(call), 1
    while unit < arguments[1]:
        first, tiles, panel, last = locate_unit(unit, rows, block, groups, TILE_PANELS, width)
        next_one, distance = take_following_unit(call, unit, arguments[1], tiles, groups)
        for index in range(tiles):
            row = first + index * TILE_ROWS
            inputs, row_scale, result = x + row * size, row_scales + row * 4, out + row * width * 4
            ahead, stride = choose_prefetch(weights, weights + distance * group_bytes, size, index, tiles, cold)
            if last - panel == TILE_PANELS:
                _compute_tile(
                    inputs, row_scale, weights, result, zeros, scales, bias, size, width, panel, ahead, stride
                )
            else:
                for one in range(panel, last):
                    _compute_narrow_tile(
                        inputs, row_scale, weights, result, zeros, scales, bias, size, width, one, ahead, stride
                    )
        unit, cold = take_unit(call) if next_one == unit else next_one, 0


class _Tile(TileBuilder):
    """Tile of int8 products: (sum - zero) * scale * row_scale + bias."""

    SUMS, INPUT = TileBuilder.INTS, TileBuilder.INT

    _BYTES = ir.VectorType(TileBuilder.BYTE, 64)

    def __init__(self, builder: Any, shape: tuple[int, int], arguments: Any) -> None:
        x, self._row_scales, weights, out, zeros, scales, bias, size, width, panel, ahead, stride = arguments
        super().__init__(builder, shape, x, weights, out, size, width, panel, ahead, stride)
        self._zeros, self._scales, self._bias = (builder.add(a, self.first_offset) for a in (zeros, scales, bias))

    def build_sum(self, total: Any, inputs: Any, weights: Any) -> Any:
        kind = ir.FunctionType(self.INTS, [self.INTS, self._BYTES, self._BYTES])
        called = declare_function(self.builder, "llvm.x86.avx512.vpdpbusd.512", kind)
        return self.builder.call(called, [total, *(self.builder.bitcast(n, self._BYTES) for n in (inputs, weights))])

    def build_outputs(self, sums: list[Any], offset: Any) -> list[Any]:
        builder = self.builder
        zeros = self.build_load(builder.add(self._zeros, offset), self.INTS, 4)
        scales = self.build_load(builder.add(self._scales, offset), self.FLOATS, 4)
        bias = self.build_load(builder.add(self._bias, offset), self.FLOATS, 4)
        outputs = []
        for row, total in enumerate(sums):
            row_scale = self.build_broadcast(
                self.build_load(builder.add(self._row_scales, self.build_constant(4 * row)), self.FLOAT, 4), self.FLOATS
            )
            product = builder.fmul(builder.sitofp(builder.sub(total, zeros), self.FLOATS), scales)
            outputs.append(builder.fadd(builder.fmul(product, row_scale), bias))
        return outputs


def _build_tile(panels: int) -> Callable[..., Any]:
    @intrinsic
    def compute_tile(
        _context: Any, x: Any, row_scales: Any, weights: Any, out: Any, zeros: Any, scales: Any, bias: Any, size: Any,
        width: Any, panel: Any, ahead: Any, stride: Any,
    ) -> Code:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Tile(builder, (TILE_ROWS, panels), arguments).build()
            return context.get_dummy_value()

        return types.void(x, row_scales, weights, out, zeros, scales, bias, size, width, panel, ahead, stride), build

    return compute_tile  # type: ignore[no-any-return]


_compute_tile, _compute_narrow_tile = _build_tile(TILE_PANELS), _build_tile(1)

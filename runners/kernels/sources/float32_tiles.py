"""Kernel for matrix products of float32 layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from runners.kernels.layout import GROUP_PANELS, PANEL_STEP_BYTES, TILE_PANELS, TILE_ROWS
from runners.kernels.sources.language import Code, declare_function, take_unit
from runners.kernels.sources.prefetch import choose_prefetch, locate_unit, take_following_unit
from runners.kernels.sources.tile_builder import TileBuilder


def multiply(call: Any) -> None:
    """Multiply inputs by packed weights, and add the bias.

    A unit is a block of rows with a group of panels.
    """
    arguments = carray(call, 11)
    x, weights, out, bias, rows = arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]
    size, width, block, groups = arguments[7], arguments[8], arguments[9], arguments[10]
    row_bytes, group_bytes = size * 4, GROUP_PANELS * size * PANEL_STEP_BYTES
    unit, cold = take_unit(call), 1
    while unit < arguments[1]:
        first, tiles, panel, last = locate_unit(unit, rows, block, groups, GROUP_PANELS, width)
        next_one, distance = take_following_unit(call, unit, arguments[1], tiles, groups)
        for index in range(tiles):
            row = first + index * TILE_ROWS
            inputs, result = x + row * row_bytes, out + row * width * 4
            ahead, stride = choose_prefetch(weights, weights + distance * group_bytes, row_bytes, index, tiles, cold)
            if last - panel < GROUP_PANELS:
                for one in range(panel, last):
                    if rows == 1:
                        _compute_narrow_row(inputs, weights, result, bias, size, width, one, ahead, stride)
                    else:
                        compute_narrow_tile(inputs, weights, result, bias, size, width, one, ahead, stride)
            elif rows == 1:
                _compute_row(inputs, weights, result, bias, size, width, panel, ahead, stride)
            else:
                for one in range(panel, last, TILE_PANELS):
                    compute_tile(inputs, weights, result, bias, size, width, one, ahead, stride)
        unit, cold = take_unit(call) if next_one == unit else next_one, 0


class _Tile(TileBuilder):
    """Tile of float32 products plus bias."""

    def __init__(self, builder: Any, shape: tuple[int, int], arguments: Any) -> None:
        x, weights, out, bias, size, width, panel, ahead, stride = arguments
        super().__init__(
            builder, shape, x, weights, out, builder.mul(size, self.build_constant(4)), width, panel, ahead, stride
        )
        self._bias = builder.add(bias, self.first_offset)

    def build_sum(self, total: Any, inputs: Any, weights: Any) -> Any:
        kind = ir.FunctionType(self.FLOATS, [self.FLOATS] * 3)
        return self.builder.call(declare_function(self.builder, "llvm.fma.v16f32", kind), [inputs, weights, total])

    def build_outputs(self, sums: list[Any], offset: Any) -> list[Any]:
        bias = self.build_load(self.builder.add(self._bias, offset), self.FLOATS, 4)
        return [self.builder.fadd(total, bias) for total in sums]


def _build_tile(shape: tuple[int, int]) -> Callable[..., Any]:
    @intrinsic
    def compute_tile(
        _context: Any, x: Any, weights: Any, out: Any, bias: Any, size: Any, width: Any, panel: Any, ahead: Any,
        stride: Any,
    ) -> Code:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Tile(builder, shape, arguments).build()
            return context.get_dummy_value()

        return types.void(x, weights, out, bias, size, width, panel, ahead, stride), build

    return compute_tile  # type: ignore[no-any-return]


compute_tile, compute_narrow_tile = _build_tile((TILE_ROWS, TILE_PANELS)), _build_tile((TILE_ROWS, 1))
_compute_row, _compute_narrow_row = _build_tile((1, GROUP_PANELS)), _build_tile((1, 1))

"""Products of layers of float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from runners.kernels.layout import GROUP, PANEL_STEP, PANELS, ROWS
from runners.kernels.sources.language import Code, function, next_unit
from runners.kernels.sources.prefetch import asked_for, followed_by, unit_at
from runners.kernels.sources.tile_builder import TileBuilder


def multiply(call: Any) -> None:
    """A unit is a block of rows with a group of panels."""
    numbers = carray(call, 11)
    x, weights, out, bias, rows = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    size, width, block, groups = numbers[7], numbers[8], numbers[9], numbers[10]
    row_bytes, group_bytes = size * 4, GROUP * size * PANEL_STEP
    unit, cold = next_unit(call), 1
    while unit < numbers[1]:
        first, tiles, panel, last = unit_at(unit, rows, block, groups, GROUP, width)
        following, apart = followed_by(call, unit, numbers[1], tiles, groups)
        for number in range(tiles):
            row = first + number * ROWS
            given, result = x + row * row_bytes, out + row * width * 4
            ahead, stride = asked_for(weights, weights + apart * group_bytes, row_bytes, number, tiles, cold)
            if last - panel < GROUP:
                for one in range(panel, last):
                    if rows == 1:
                        _narrow_row(given, weights, result, bias, size, width, one, ahead, stride)
                    else:
                        narrow_tile(given, weights, result, bias, size, width, one, ahead, stride)
            elif rows == 1:
                _row(given, weights, result, bias, size, width, panel, ahead, stride)
            else:
                for one in range(panel, last, PANELS):
                    tile(given, weights, result, bias, size, width, one, ahead, stride)
        unit, cold = next_unit(call) if following == unit else following, 0


class _Tile(TileBuilder):
    """Sums of products, and a bias."""

    def __init__(self, builder: Any, shape: tuple[int, int], arguments: Any) -> None:
        x, weights, out, bias, size, width, panel, ahead, stride = arguments
        super().__init__(builder, shape, x, weights, out, builder.mul(size, self.long(4)), width, panel, ahead, stride)
        self._bias = builder.add(bias, self.first)

    def multiplied(self, total: Any, inputs: Any, weights: Any) -> Any:
        kind = ir.FunctionType(self.FLOATS, [self.FLOATS] * 3)
        return self.builder.call(function(self.builder, "llvm.fma.v16f32", kind), [inputs, weights, total])

    def finished(self, sums: list[Any], place: Any) -> list[Any]:
        bias = self.load(self.builder.add(self._bias, place), self.FLOATS, 4)
        return [self.builder.fadd(total, bias) for total in sums]


def _tile_of(shape: tuple[int, int]) -> Callable[..., Any]:
    @intrinsic
    def tile(
        _context: Any, x: Any, weights: Any, out: Any, bias: Any, size: Any, width: Any, panel: Any, ahead: Any,
        stride: Any,
    ) -> Code:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Tile(builder, shape, arguments).build()
            return context.get_dummy_value()

        return types.void(x, weights, out, bias, size, width, panel, ahead, stride), build

    return tile  # type: ignore[no-any-return]


tile, narrow_tile = _tile_of((ROWS, PANELS)), _tile_of((ROWS, 1))
_row, _narrow_row = _tile_of((1, GROUP)), _tile_of((1, 1))

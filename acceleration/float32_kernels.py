"""Layers of float32; those of few rows take as long as their weights take to be read.

MKL's kernels are made for many rows. Two cores of an Intel Xeon with AMX, 30 layers of SmolLM2 with 1, 8, 16, 32, 64
and 128 rows, milliseconds: 17, 21, 26, 46, 63 and 111; MKL 19, 29, 37, 52, 69 and 101. MiniLM with one text of 20, 50
and 80 tokens and with 4, 8, 16 and 32 texts: 6.3, 9.6, 12.0, 32, 38, 100 and 211; MKL 7.7, 11, 14, 37, 44, 113 and 255.

Two cores of an AMD EPYC without AVX-512, a layer of 768 to 768 with 1, 8, 16, 48 and 256 rows, of PyTorch's time: 0.65,
0.55, 0.6, 0.75 and 0.9.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from acceleration.parallel import Code, ParallelKernel, compiles_for, next_unit
from acceleration.program import Call, OfRows
from acceleration.tiles import LANES, PANELS, ROWS, TileBuilder, in_panels, parts, whole_tiles

#: Panels that a thread takes at a time, up to four: a lone row has so many sums, as each waits for its last one.
_GROUP = 4 // PANELS * PANELS


class Float32Kernels:
    """Kernels for layers of float32; to be made only where they `compute`.

    Args:
        folder: where they are kept once they are compiled.
    """

    def __init__(self, folder: Path) -> None:
        self._multiply = ParallelKernel(_multiply, folder)

    @staticmethod
    def compute() -> bool:
        """Whether the processor has registers of 32 or 64 bytes, and the compiler knows it."""
        return compiles_for("avx2") and compiles_for("fma")

    @staticmethod
    def fit(out_features: int) -> bool:
        """Whether a layer's weights fill whole registers."""
        return out_features % LANES == 0

    @staticmethod
    def packed(weight: torch.Tensor) -> torch.Tensor:
        """Weights of shape (out_features, in_features) in the order in which they are read."""
        return in_panels(weight.detach().contiguous())

    def linear(self, inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Outputs of a layer, shape (rows, out_features).

        Args:
            inputs: shape (rows, in_features), contiguous.
            bias: shape (out_features,).
        """
        rows, size = inputs.shape
        usual = _filled_up(rows)
        if usual != rows:
            # Whole tiles are read.
            inputs = torch.cat([inputs, inputs.new_empty(usual - rows, size)])
        outputs = inputs.new_empty(usual, len(bias))
        block, groups = parts(4 * size, len(bias), _GROUP)
        self._multiply(
            -(-usual // block) * groups,
            inputs.data_ptr(), packed.data_ptr(), outputs.data_ptr(), bias.data_ptr(), usual, size, len(bias), block,
            groups,
        )  # fmt: skip
        return outputs[:rows]

    def calls(
        self, inputs: int, outputs: int, packed: torch.Tensor, bias: torch.Tensor, in_features: int
    ) -> list[Call]:
        """The same for a program.

        Args:
            inputs, outputs: addresses of contiguous rows, as many as whole tiles have.
        """
        out_features = len(bias)
        block, groups = parts(4 * in_features, out_features, _GROUP)
        units = OfRows(
            ("tiles of float32", out_features, in_features), lambda rows: -(-_filled_up(rows) // block) * groups
        )
        given = (
            inputs, packed.data_ptr(), outputs, bias.data_ptr(), OfRows("rows, filled up", _filled_up),
            in_features, out_features, block, groups,
        )  # fmt: skip
        return [Call(self._multiply, units, given)]


def _filled_up(rows: int) -> int:
    """One row is computed by itself, in the same order."""
    return 1 if rows == 1 else whole_tiles(rows)


def _multiply(call: Any) -> None:
    """A unit is a block of rows with a group of panels."""
    numbers = carray(call, 11)
    x, weights, out, bias, rows = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    size, width, block, groups = numbers[7], numbers[8], numbers[9], numbers[10]
    unit = next_unit(call)
    while unit < numbers[1]:
        first, panel = unit // groups * block, unit % groups * _GROUP
        last = min(panel + _GROUP, width // LANES)
        for row in range(first, min(first + block, rows), ROWS):
            given, result = x + row * size * 4, out + row * width * 4
            if last - panel < _GROUP:
                for one in range(panel, last):
                    if rows == 1:
                        _narrow_row(given, weights, result, bias, size, width, one)
                    else:
                        narrow_tile(given, weights, result, bias, size, width, one)
            elif rows == 1:
                _row(given, weights, result, bias, size, width, panel)
            else:
                for one in range(panel, last, PANELS):
                    tile(given, weights, result, bias, size, width, one)
        unit = next_unit(call)


class _Tile(TileBuilder):
    """Sums of products, and a bias."""

    def __init__(self, builder: Any, shape: tuple[int, int], arguments: Any) -> None:
        x, weights, out, bias, size, width, panel = arguments
        super().__init__(builder, shape, x, weights, out, builder.mul(size, self.long(4)), width, panel)
        self._bias = builder.add(bias, self.first)

    def multiplied(self, total: Any, inputs: Any, weights: Any) -> Any:
        kind = ir.FunctionType(self.FLOATS, [self.FLOATS] * 3)
        return self.builder.call(self.function("llvm.fma.v16f32", kind), [inputs, weights, total])

    def finished(self, sums: list[Any], place: Any) -> list[Any]:
        bias = self.load(self.builder.add(self._bias, place), self.FLOATS, 4)
        return [self.builder.fadd(total, bias) for total in sums]


def _tile_of(shape: tuple[int, int]) -> Callable[..., Any]:
    @intrinsic
    def tile(_context: Any, x: Any, weights: Any, out: Any, bias: Any, size: Any, width: Any, panel: Any) -> Code:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Tile(builder, shape, arguments).build()
            return context.get_dummy_value()

        return types.void(x, weights, out, bias, size, width, panel), build

    return tile  # type: ignore[no-any-return]


tile, narrow_tile = _tile_of((ROWS, PANELS)), _tile_of((ROWS, 1))
_row, _narrow_row = _tile_of((1, _GROUP)), _tile_of((1, 1))

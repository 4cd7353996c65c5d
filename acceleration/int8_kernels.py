"""Layers of eight bits by an instruction that multiplies 64 numbers and adds each four products (AVX-512 VNNI).

oneDNN's kernels are made for many rows, and PyTorch rounds inputs for them in half a dozen operations. For few rows a
layer is as fast as its weights can be read, so they are read once, by all threads, and nothing else is done.

Two cores of an Intel Xeon, 15 layers of SmolLM2 with 1, 16, 64 and 256 rows, milliseconds: 4.6, 5.6, 11 and 35; oneDNN
with rounding 20, 24, 34 and 71, and MKL in float32 13, 18, 34 and 111.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from acceleration.instructions import computes_int8
from acceleration.numbers import BITS_LIKE, BYTE_LIKE, FLOAT_LIKE, row_at
from acceleration.parallel import Code, ParallelKernel, compiles_for, next_unit
from acceleration.program import ROWS as RUN_ROWS
from acceleration.program import Call, OfRows, Scratch
from acceleration.tiles import LANES, PANELS, ROWS, TileBuilder, in_panels, parts, whole_tiles

#: Numbers of 8 bits in one of 32.
_DEPTH = 4

#: From so many numbers on all threads round them.
_LARGE = 1 << 15

#: Added to a number of at most 22 bits, it leaves the number, rounded and by 128 larger, in the last bits.
_ROUNDED, _LARGEST = np.float32((3 << 22) + 128), np.float32(127)

#: All bits of a number but that of its sign, and those of 1e-30: no unit is nought.
_NO_SIGN, _TINY_BITS = np.uint32(0x7FFFFFFF), np.float32(1e-30).view(np.uint32)


class Int8Kernels:
    """Kernels for layers of eight bits; to be made only where they `compute`.

    Args:
        folder: where they are kept once they are compiled.
    """

    def __init__(self, folder: Path) -> None:
        self._round, self._multiply = ParallelKernel(_round_rows, folder), ParallelKernel(_multiply, folder)

    @staticmethod
    def compute() -> bool:
        """Whether the processor has the instruction, and the compiler knows it: it ends the process if not."""
        return computes_int8() and compiles_for("avx512vnni")

    @staticmethod
    def fit(out_features: int, in_features: int) -> bool:
        """Whether a layer's weights fill whole registers."""
        return out_features % LANES == 0 and in_features % _DEPTH == 0

    @staticmethod
    def packed(weight: torch.Tensor) -> torch.Tensor:
        """Weights of shape (out_features, in_features), int8, in the order in which they are read."""
        return in_panels(weight)

    def linear(
        self, inputs: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Outputs of a layer.

        Args:
            inputs: shape (rows, in_features), float32, each row contiguous.
            packed: the layer's weights.
            scales: what one of each output's weights stands for, shape (out_features,), float32.
            zeros: the sum of each output's weights, by 128, shape (out_features,), int32.
            bias: shape (out_features,), float32.

        Returns:
            Shape (rows, out_features).
        """
        rows, size = inputs.shape
        out_features = len(scales)
        usual = whole_tiles(rows)
        # Rounded inputs, and behind them the units of each row.
        room = torch.empty(usual * (size + 4), dtype=torch.uint8)
        rounded = room.data_ptr()
        units = rounded + usual * size
        outputs = inputs.new_empty(usual, out_features)
        self._round(rows, inputs.data_ptr(), rounded, units, size, inputs.stride(0), large=rows * size >= _LARGE)
        block, groups = parts(size, out_features)
        self._multiply(
            -(-usual // block) * groups,
            rounded, units, packed.data_ptr(), outputs.data_ptr(), zeros.data_ptr(), scales.data_ptr(), bias.data_ptr(),
            usual, size, out_features, block, groups,
        )  # fmt: skip
        return outputs[:rows]

    def calls(
        self, inputs: int, outputs: int, layer: Sequence[torch.Tensor], shape: tuple[int, int], scratch: Scratch
    ) -> list[Call]:
        """The same for a program.

        Args:
            inputs, outputs: addresses of contiguous rows; those of outputs are as many as `scratch` has.
            layer: packed weights, scales, zeros and bias, as `linear` takes them.
            shape: (out_features, in_features).
        """
        out_features, size = shape
        packed, scales, zeros, bias = (tensor.data_ptr() for tensor in layer)
        rounded = scratch.rows_of("rounded", size, torch.uint8).data_ptr()
        units = scratch.rows_of("units", 1, torch.float32).data_ptr()
        block, groups = parts(size, out_features)
        tiles = OfRows(("tiles", shape), lambda rows: -(-whole_tiles(rows) // block) * groups)
        large = OfRows(("rounded by all", size), lambda rows: rows * size >= _LARGE)
        return [
            Call(self._round, RUN_ROWS, (inputs, rounded, units, size, size), large),
            Call(
                self._multiply,
                tiles,
                (
                    rounded, units, packed, outputs, zeros, scales, bias,
                    OfRows("rows of whole tiles", whole_tiles), size, out_features, block, groups,
                ),
            ),
        ]  # fmt: skip


def _round_rows(call: Any) -> None:
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


def _multiply(call: Any) -> None:
    """A unit is a block of rows with a group of registers of outputs."""
    numbers = carray(call, 14)
    x, units, weights, out, zeros = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    scales, bias, rows, size, width = numbers[7], numbers[8], numbers[9], numbers[10], numbers[11]
    block, groups = numbers[12], numbers[13]
    unit = next_unit(call)
    while unit < numbers[1]:
        first, panel = unit // groups * block, unit % groups * PANELS
        last = min(panel + PANELS, width // LANES)
        for row in range(first, min(first + block, rows), ROWS):
            given, unit_of, result = x + row * size, units + row * 4, out + row * width * 4
            if last - panel == PANELS:
                _tile(given, unit_of, weights, result, zeros, scales, bias, size, width, panel)
            else:
                for one in range(panel, last):
                    _narrow_tile(given, unit_of, weights, result, zeros, scales, bias, size, width, one)
        unit = next_unit(call)


class _Tile(TileBuilder):
    """(sum - zero) scale unit + bias."""

    SUMS, INPUT = TileBuilder.INTS, TileBuilder.INT

    _BYTES = ir.VectorType(TileBuilder.BYTE, 64)

    def __init__(self, builder: Any, shape: tuple[int, int], arguments: Any) -> None:
        x, self._units, weights, out, zeros, scales, bias, size, width, panel = arguments
        super().__init__(builder, shape, x, weights, out, size, width, panel)
        self._zeros, self._scales, self._bias = (builder.add(a, self.first) for a in (zeros, scales, bias))

    def multiplied(self, total: Any, inputs: Any, weights: Any) -> Any:
        kind = ir.FunctionType(self.INTS, [self.INTS, self._BYTES, self._BYTES])
        function = self.function("llvm.x86.avx512.vpdpbusd.512", kind)
        return self.builder.call(function, [total, *(self.builder.bitcast(n, self._BYTES) for n in (inputs, weights))])

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
        width: Any, panel: Any,
    ) -> Code:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Tile(builder, (ROWS, panels), arguments).build()
            return context.get_dummy_value()

        return types.void(x, units, weights, out, zeros, scales, bias, size, width, panel), build

    return tile  # type: ignore[no-any-return]


_tile, _narrow_tile = _tile_of(PANELS), _tile_of(1)

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

import numba
import numpy as np
import torch
from llvmlite import binding, ir
from numba import carray, types
from numba.extending import intrinsic

from acceleration.instructions import computes_int8
from acceleration.kernels import row_at
from acceleration.parallel import Code, ParallelKernel, kept_in, next_unit
from acceleration.program import ROWS as RUN_ROWS
from acceleration.program import Call, OfRows, Scratch

#: Numbers of 32 bits in a register, and those of 8 bits in one of these.
LANES, DEPTH = 16, 4

#: Rows and registers of outputs that are summed at once: 24 of 32 registers.
ROWS, _PANELS = 8, 3

#: How far ahead weights are asked for, in bytes.
_AHEAD = 512

#: Bytes of inputs that are multiplied with all weights before the next: a part of a core's cache.
_BLOCK = 1 << 19

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
        folder = kept_in(folder)
        self._round, self._multiply = ParallelKernel(_round_rows, folder), ParallelKernel(_multiply, folder)

    @staticmethod
    def compute() -> bool:
        """Whether the processor has the instruction, and the compiler knows it: it ends the process if not."""
        named = numba.config.CPU_NAME or numba.config.CPU_FEATURES
        return computes_int8() and not named and bool(binding.get_host_cpu_features().get("avx512vnni"))

    @staticmethod
    def fit(out_features: int, in_features: int) -> bool:
        """Whether a layer's weights fill whole registers."""
        return out_features % LANES == 0 and in_features % DEPTH == 0

    @staticmethod
    def packed(weight: torch.Tensor) -> torch.Tensor:
        """Weights of shape (out_features, in_features), int8, in the order in which they are read."""
        out_features, in_features = weight.shape
        room = torch.empty(weight.numel() + 64, dtype=torch.int8)
        packed = room[-room.data_ptr() % 64 :][: weight.numel()]
        panels = packed.view(out_features // LANES, in_features // DEPTH, LANES, DEPTH)
        panels.copy_(weight.view(out_features // LANES, LANES, in_features // DEPTH, DEPTH).transpose(1, 2))
        return packed

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
        usual = _whole_tiles(rows)
        # Rounded inputs, and behind them the units of each row.
        room = torch.empty(usual * (size + 4), dtype=torch.uint8)
        rounded = room.data_ptr()
        units = rounded + usual * size
        outputs = inputs.new_empty(usual, out_features)
        self._round(rows, inputs.data_ptr(), rounded, units, size, inputs.stride(0), large=rows * size >= _LARGE)
        block, groups = _parts(size, out_features)
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
        block, groups = _parts(size, out_features)
        tiles = OfRows(("tiles", shape), lambda rows: -(-_whole_tiles(rows) // block) * groups)
        large = OfRows(("rounded by all", size), lambda rows: rows * size >= _LARGE)
        return [
            Call(self._round, RUN_ROWS, (inputs, rounded, units, size, size), large),
            Call(
                self._multiply,
                tiles,
                (
                    rounded, units, packed, outputs, zeros, scales, bias,
                    OfRows("rows of whole tiles", _whole_tiles), size, out_features, block, groups,
                ),
            ),
        ]  # fmt: skip


def _whole_tiles(rows: int) -> int:
    return -(-rows // ROWS) * ROWS


def _parts(size: int, out_features: int) -> tuple[int, int]:
    """Rows of a block, and groups of registers of outputs."""
    return max(_BLOCK // size // ROWS, 1) * ROWS, -(-out_features // (LANES * _PANELS))


def _round_rows(call: Any) -> None:
    """Each row in units of its largest number's 127th part, by 128 larger so that it needs no sign."""
    numbers = carray(call, 7)
    x, rounded, units, size, distance = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    rows, row = numbers[1], next_unit(call)
    while row < rows:
        given, result = row_at(x, row * distance, size, _FLOAT_LIKE), row_at(rounded, row * size, size, _BYTE_LIKE)
        # As whole numbers, which are in the same order and no vector instruction has to ask whether they are numbers.
        # What is none is the largest.
        bits, most = row_at(x, row * distance, size, _BITS_LIKE), _TINY_BITS
        for i in range(size):
            most = max(most, np.uint32(bits[i] & _NO_SIGN))
        largest = np.uint32(most).view(np.float32)
        factor = _LARGEST / largest
        for i in range(size):
            result[i] = np.uint8(np.float32(given[i] * factor + _ROUNDED).view(np.uint32))
        row_at(units, row, 1, _FLOAT_LIKE)[0] = largest / _LARGEST
        row = next_unit(call)


def _multiply(call: Any) -> None:
    """A unit is a block of rows with a group of registers of outputs."""
    numbers = carray(call, 14)
    x, units, weights, out, zeros = numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    scales, bias, rows, size, width = numbers[7], numbers[8], numbers[9], numbers[10], numbers[11]
    block, groups = numbers[12], numbers[13]
    unit = next_unit(call)
    while unit < numbers[1]:
        first, panel = unit // groups * block, unit % groups * _PANELS
        last = min(panel + _PANELS, width // LANES)
        for row in range(first, min(first + block, rows), ROWS):
            given, unit_of, result = x + row * size, units + row * 4, out + row * width * 4
            if last - panel == _PANELS:
                _tile(given, unit_of, weights, result, zeros, scales, bias, size, width, panel)
            else:
                for one in range(panel, last):
                    _narrow_tile(given, unit_of, weights, result, zeros, scales, bias, size, width, one)
        unit = next_unit(call)


class _TileBuilder:
    """Code for outputs of `ROWS` rows and some panels, written out: no compiler keeps sums in registers by itself."""

    _BYTE, _INT, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
    _BYTES, _INTS, _FLOATS = ir.VectorType(_BYTE, 64), ir.VectorType(_INT, LANES), ir.VectorType(_FLOAT, LANES)

    def __init__(self, builder: Any, arguments: Any, panels: int) -> None:
        self._builder = builder
        self._panels = panels
        self._x, self._units, weights, out, zeros, scales, bias, self._size, width, panel = arguments
        self._distance = builder.mul(width, self._long(4))
        self._weights = builder.add(weights, builder.mul(builder.mul(panel, self._long(LANES)), self._size))
        outputs = builder.mul(panel, self._long(LANES * 4))
        self._out, self._zeros, self._scales, self._bias = (builder.add(a, outputs) for a in (out, zeros, scales, bias))

    def build(self) -> None:
        builder, size = self._builder, self._size
        rows = [builder.add(self._x, builder.mul(self._long(row), size)) for row in range(ROWS)]
        before, loop, behind = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("sums")
        builder.branch(loop)
        builder.position_at_end(loop)
        depth = builder.phi(self._LONG)
        depth.add_incoming(self._long(0), before)
        sums = [[builder.phi(self._INTS) for _ in range(self._panels)] for _ in range(ROWS)]
        weights = [self._load_weights(panel, depth) for panel in range(self._panels)]
        products = []
        for row, start in zip(sums, rows, strict=True):
            inputs = self._spread(self._load(builder.add(start, depth), self._INT, 4), self._INTS)
            products.append([self._add_products(one, inputs, weight) for one, weight in zip(row, weights, strict=True)])
        for row, added in zip(sums, products, strict=True):
            for one, new in zip(row, added, strict=True):
                one.add_incoming(ir.Constant(self._INTS, [0] * LANES), before)
                one.add_incoming(new, loop)
        following = builder.add(depth, self._long(DEPTH))
        depth.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, size), loop, behind)
        builder.position_at_end(behind)
        for panel in range(self._panels):
            self._store([row[panel] for row in products], panel)

    def _store(self, sums: list[Any], panel: int) -> None:
        """(sum - zero) scale unit + bias."""
        builder = self._builder
        place = self._long(panel * LANES * 4)
        zeros = self._load(builder.add(self._zeros, place), self._INTS, 4)
        scales = self._load(builder.add(self._scales, place), self._FLOATS, 4)
        bias = self._load(builder.add(self._bias, place), self._FLOATS, 4)
        for row, total in enumerate(sums):
            unit = self._spread(self._load(builder.add(self._units, self._long(4 * row)), self._FLOAT, 4), self._FLOATS)
            product = builder.fmul(builder.sitofp(builder.sub(total, zeros), self._FLOATS), scales)
            output = builder.fadd(builder.fmul(product, unit), bias)
            at = builder.add(builder.add(self._out, builder.mul(self._long(row), self._distance)), place)
            builder.store(output, builder.inttoptr(at, self._FLOATS.as_pointer())).align = 4

    def _load_weights(self, panel: int, depth: Any) -> Any:
        builder = self._builder
        start = builder.add(self._weights, builder.mul(self._long(panel * LANES), self._size))
        at = builder.add(start, builder.mul(depth, self._long(LANES)))
        ahead = builder.inttoptr(builder.add(at, self._long(_AHEAD)), self._BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [self._BYTE.as_pointer(), self._INT, self._INT, self._INT])
        # To be read, kept in all caches, and data.
        builder.call(self._function("llvm.prefetch.p0", kind), [ahead, *(ir.Constant(self._INT, n) for n in (0, 3, 1))])
        return builder.bitcast(self._load(at, self._INTS, 64), self._BYTES)

    def _add_products(self, total: Any, inputs: Any, weights: Any) -> Any:
        kind = ir.FunctionType(self._INTS, [self._INTS, self._BYTES, self._BYTES])
        function = self._function("llvm.x86.avx512.vpdpbusd.512", kind)
        return self._builder.call(function, [total, self._builder.bitcast(inputs, self._BYTES), weights])

    def _function(self, name: str, kind: Any) -> Any:
        module = self._builder.module
        return module.globals.get(name) or ir.Function(module, kind, name)

    def _load(self, at: Any, kind: Any, alignment: int) -> Any:
        loaded = self._builder.load(self._builder.inttoptr(at, kind.as_pointer()))
        loaded.align = alignment
        return loaded

    def _spread(self, number: Any, kind: Any) -> Any:
        nothing, first = ir.Constant(kind, ir.Undefined), ir.Constant(self._INT, 0)
        return self._builder.shuffle_vector(
            self._builder.insert_element(nothing, number, first), nothing, ir.Constant(self._INTS, [0] * LANES)
        )

    def _long(self, number: int) -> Any:
        return ir.Constant(self._LONG, number)


def _tile_of(panels: int) -> Callable[..., Any]:
    @intrinsic
    def tile(
        _context: Any, x: Any, units: Any, weights: Any, out: Any, zeros: Any, scales: Any, bias: Any, size: Any,
        width: Any, panel: Any,
    ) -> Code:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _TileBuilder(builder, arguments, panels).build()
            return context.get_dummy_value()

        return types.void(x, units, weights, out, zeros, scales, bias, size, width, panel), build

    return tile  # type: ignore[no-any-return]


_tile, _narrow_tile = _tile_of(_PANELS), _tile_of(1)
_FLOAT_LIKE, _BITS_LIKE, _BYTE_LIKE = np.float32(0), np.uint32(0), np.uint8(0)

"""Layers of eight bits by an instruction that multiplies 64 numbers and adds each four products (AVX-512 VNNI).

oneDNN's kernels are made for many rows, and PyTorch rounds inputs for them in half a dozen operations. For few rows a
layer is as fast as its weights can be read, so they are read once, by all threads, and nothing else is done.

Two cores of an Intel Xeon, 15 layers of SmolLM2 with 1, 16, 64 and 256 rows, milliseconds: 4.6, 5.6, 11 and 35; oneDNN
with rounding 20, 24, 34 and 71, and MKL in float32 13, 18, 34 and 111.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runners.kernels.compiler import Compiler
from runners.kernels.host_cpu import compiles_for
from runners.kernels.instructions import computes_int8
from runners.kernels.program import ROWS as RUN_ROWS
from runners.kernels.program import KernelCall, OfRows, Scratch
from runners.kernels.source import INT8
from runners.kernels.tiles import in_panels, parts, whole_tiles, worth_filling

#: Numbers of 8 bits in one of 32.
_DEPTH = 4

#: From so many numbers on all threads round them.
_LARGE = 1 << 15


class Int8Kernels:
    """Kernels for layers of eight bits; to be made only where they `compute`."""

    def __init__(self, compiler: Compiler) -> None:
        compiler.start(INT8)
        self._round, self._multiply = map(compiler.kernel, INT8)

    @staticmethod
    def compute() -> bool:
        """Whether the processor has the instruction, and the compiler knows it: it ends the process if not."""
        return computes_int8() and compiles_for("avx512vnni")

    @staticmethod
    def fit(out_features: int, in_features: int) -> bool:
        """Return whether a layer's outputs fill whole panels, or nearly, and its inputs whole steps."""
        return worth_filling(out_features) and in_features % _DEPTH == 0

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
            scales: what one of each output's weights stands for, shape (whole_panels(out_features),), float32.
            zeros: the sum of each output's weights, by 128, of the same shape, int32.
            bias: of the same shape, float32.

        Returns:
            Shape (rows, whole_panels(out_features)).
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
    ) -> list[KernelCall]:
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
            KernelCall(self._round, RUN_ROWS, (inputs, rounded, units, size, size), large),
            KernelCall(
                self._multiply,
                tiles,
                (
                    rounded, units, packed, outputs, zeros, scales, bias,
                    OfRows("rows of whole tiles", whole_tiles), size, out_features, block, groups,
                ),
            ),
        ]  # fmt: skip

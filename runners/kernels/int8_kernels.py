"""Linear layers in int8 with AVX-512 VNNI.

The instruction multiplies 64 values and sums the products in groups of four.

oneDNN's kernels are made for many rows, and PyTorch needs about six operations to round inputs for them. With few rows
the time of a layer is the time to read its weights, so two kernels round and multiply, and weights are read once.

15 layers of SmolLM2 with 16 rows take 5.6 ms on two cores of an Intel Xeon; oneDNN with rounding takes 24 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runners.kernels.compiler import Compiler
from runners.kernels.host_cpu import compiles_for
from runners.kernels.instructions import computes_int8
from runners.kernels.program import ROWS as RUN_ROWS
from runners.kernels.program import FromRows, KernelCall, Scratch
from runners.kernels.source import INT8
from runners.kernels.tiles import divide_layer, whole_tiles, worth_filling

#: int8 values in 32 bits.
_DEPTH = 4

#: Elements from which all threads share rounding.
_LARGE = 1 << 15


class Int8Kernels:
    """Kernels for int8 layers; create them only if `compute` returns true."""

    def __init__(self, compiler: Compiler) -> None:
        compiler.start(INT8)
        self._round, self._multiply = map(compiler.kernel, INT8)

    @staticmethod
    def compute() -> bool:
        """Return whether the CPU has VNNI and LLVM knows it.

        If not, LLVM would abort the process.
        """
        return computes_int8() and compiles_for("avx512vnni")

    @staticmethod
    def fit(out_features: int, in_features: int) -> bool:
        """Return whether outputs almost fill whole panels, and inputs fill whole steps."""
        return worth_filling(out_features) and in_features % _DEPTH == 0

    def linear(
        self, inputs: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Compute a layer.

        Args:
            inputs: shape (rows, in_features), float32, each row contiguous.
            packed: the layer's weights.
            scales: scale of each output's weights, shape (whole_panels(out_features),), float32.
            zeros: sum of each output's weights times 128, same shape, int32.
            bias: same shape, float32.

        Returns:
            Shape (rows, whole_panels(out_features)).
        """
        rows, size = inputs.shape
        out_features = len(scales)
        filled = whole_tiles(rows)
        # Rounded inputs, followed by the scale of each row.
        buffer = torch.empty(filled * (size + 4), dtype=torch.uint8)
        rounded = buffer.data_ptr()
        row_scales = rounded + filled * size
        outputs = inputs.new_empty(filled, out_features)
        self._round(rows, inputs.data_ptr(), rounded, row_scales, size, inputs.stride(0), large=rows * size >= _LARGE)
        block, groups = divide_layer(size, out_features)
        self._multiply(
            -(-filled // block) * groups,
            rounded, row_scales, packed.data_ptr(), outputs.data_ptr(), zeros.data_ptr(), scales.data_ptr(),
            bias.data_ptr(), filled, size, out_features, block, groups,
        )  # fmt: skip
        return outputs[:rows]

    def calls(
        self, inputs: int, outputs: int, layer: Sequence[torch.Tensor], shape: tuple[int, int], scratch: Scratch
    ) -> list[KernelCall]:
        """Return the calls that compute a layer in a program.

        Args:
            inputs, outputs: addresses of contiguous rows; `outputs` has as many rows as `scratch`.
            layer: packed weights, scales, zeros and bias, as `linear` takes them.
            shape: (out_features, in_features).
            scratch: memory for the rounded inputs.
        """
        out_features, size = shape
        packed, scales, zeros, bias = (tensor.data_ptr() for tensor in layer)
        rounded = scratch.rows_of("rounded", size, torch.uint8).data_ptr()
        row_scales = scratch.rows_of("row scales", 1, torch.float32).data_ptr()
        block, groups = divide_layer(size, out_features)
        tiles = FromRows(("tiles", shape), lambda rows: -(-whole_tiles(rows) // block) * groups)
        large = FromRows(("rounded by all", size), lambda rows: rows * size >= _LARGE)
        return [
            KernelCall(self._round, RUN_ROWS, (inputs, rounded, row_scales, size, size), large),
            KernelCall(
                self._multiply,
                tiles,
                (
                    rounded, row_scales, packed, outputs, zeros, scales, bias,
                    FromRows("rows of whole tiles", whole_tiles), size, out_features, block, groups,
                ),
            ),
        ]  # fmt: skip

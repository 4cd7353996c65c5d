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
from runners.kernels.host_cpu import has_feature
from runners.kernels.instructions import supports_int8
from runners.kernels.kernel_source import INT8_LAYER
from runners.kernels.program import ROW_COUNT, KernelCall, Scratch, ValueFromRows
from runners.kernels.tiles import divide_layer, is_worth_padding, round_up_to_tiles

#: int8 values in 32 bits.
_DEPTH = 4

#: Elements from which all threads share rounding.
_LARGE = 1 << 15


class Int8Kernels:
    """Kernels for int8 layers; create them only if `is_supported` returns true."""

    def __init__(self, compiler: Compiler) -> None:
        compiler.start_compiling(INT8_LAYER)
        self._round, self._multiply = map(compiler.get_kernel, INT8_LAYER)

    @staticmethod
    def is_supported() -> bool:
        """Return whether the CPU has VNNI and LLVM knows it.

        If not, LLVM would abort the process.
        """
        return supports_int8() and has_feature("avx512vnni")

    @staticmethod
    def fits(out_features: int, in_features: int) -> bool:
        """Return whether outputs almost fill whole panels, and inputs fill whole steps."""
        return is_worth_padding(out_features) and in_features % _DEPTH == 0

    def compute_linear(
        self, inputs: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Compute a layer.

        Args:
            inputs: shape (rows, in_features), float32, each row contiguous.
            packed: the layer's weights.
            scales: scale of each output's weights, shape (round_up_to_panels(out_features),), float32.
            zeros: sum of each output's weights times 128, same shape, int32.
            bias: same shape, float32.

        Returns:
            Shape (rows, round_up_to_panels(out_features)).
        """
        rows, size = inputs.shape
        out_features = len(scales)
        filled = round_up_to_tiles(rows)
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

    def build_calls(
        self, inputs: int, outputs: int, layer: Sequence[torch.Tensor], shape: tuple[int, int], scratch: Scratch
    ) -> list[KernelCall]:
        """Return the calls that compute a layer in a program.

        Args:
            inputs, outputs: addresses of contiguous rows; `outputs` has as many rows as `scratch`.
            layer: packed weights, scales, zeros and bias, as `compute_linear` takes them.
            shape: (out_features, in_features).
            scratch: memory for the rounded inputs.
        """
        out_features, size = shape
        packed, scales, zeros, bias = (tensor.data_ptr() for tensor in layer)
        rounded = scratch.get_rows("rounded", size, torch.uint8).data_ptr()
        row_scales = scratch.get_rows("row scales", 1, torch.float32).data_ptr()
        block, groups = divide_layer(size, out_features)
        tiles = ValueFromRows(("tiles", shape), lambda rows: -(-round_up_to_tiles(rows) // block) * groups)
        large = ValueFromRows(("rounded by all", size), lambda rows: rows * size >= _LARGE)
        return [
            KernelCall(self._round, ROW_COUNT, (inputs, rounded, row_scales, size, size), large),
            KernelCall(
                self._multiply,
                tiles,
                (
                    rounded, row_scales, packed, outputs, zeros, scales, bias,
                    ValueFromRows("rows of whole tiles", round_up_to_tiles), size, out_features, block, groups,
                ),
            ),
        ]  # fmt: skip

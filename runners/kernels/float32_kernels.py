"""Linear layers in float32; with few rows their time is the time to read the weights.

Libraries' kernels are made for many rows: 30 layers of SmolLM2 with 16 rows take 26 ms here and 37 ms with MKL on two
cores of an Intel Xeon. On two cores of an AMD EPYC without AVX-512, a layer of 768 to 768 takes 0.6 of PyTorch's time.
"""

from __future__ import annotations

import torch

from runners.kernels.compiler import Compiler
from runners.kernels.kernel_source import FLOAT32_LAYER
from runners.kernels.layout import GROUP_PANELS
from runners.kernels.program import KernelCall, ValueFromRows
from runners.kernels.tiles import divide_layer, round_up_to_tiles


class Float32Kernels:
    """Kernels for float32 layers; create them only if `supports_tiles` returns true."""

    def __init__(self, compiler: Compiler) -> None:
        self._multiply = compiler.get_kernel(FLOAT32_LAYER)

    def compute_linear(self, inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Compute a layer.

        Args:
            inputs: shape (rows, in_features), contiguous.
            packed: the layer's weights.
            bias: shape (round_up_to_panels(out_features),).

        Returns:
            Shape (rows, round_up_to_panels(out_features)).
        """
        rows, size = inputs.shape
        filled = _round_up_rows(rows)
        if filled != rows:
            # The kernel reads whole tiles of rows.
            inputs = torch.cat([inputs, inputs.new_empty(filled - rows, size)])
        outputs = inputs.new_empty(filled, len(bias))
        block, groups = divide_layer(4 * size, len(bias), GROUP_PANELS)
        self._multiply(
            -(-filled // block) * groups,
            inputs.data_ptr(), packed.data_ptr(), outputs.data_ptr(), bias.data_ptr(), filled, size, len(bias), block,
            groups,
        )  # fmt: skip
        return outputs[:rows]

    def build_calls(
        self, inputs: int, outputs: int, packed: torch.Tensor, bias: torch.Tensor, in_features: int
    ) -> list[KernelCall]:
        """Return the calls that compute a layer in a program.

        Args:
            inputs, outputs: addresses of contiguous rows, with memory for whole tiles.
        """
        out_features = len(bias)
        block, groups = divide_layer(4 * in_features, out_features, GROUP_PANELS)
        units = ValueFromRows(
            ("tiles of float32", out_features, in_features), lambda rows: -(-_round_up_rows(rows) // block) * groups
        )
        arguments = (
            inputs, packed.data_ptr(), outputs, bias.data_ptr(), ValueFromRows("rows, filled up", _round_up_rows),
            in_features, out_features, block, groups,
        )  # fmt: skip
        return [KernelCall(self._multiply, units, arguments)]


def _round_up_rows(rows: int) -> int:
    """Round a number of rows up to whole tiles; a single row has a kernel of its own."""
    return 1 if rows == 1 else round_up_to_tiles(rows)

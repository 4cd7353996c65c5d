"""Layers of float32; those of few rows take as long as their weights take to be read.

MKL's kernels are made for many rows. Two cores of an Intel Xeon with AMX, 30 layers of SmolLM2 with 1, 8, 16, 32, 64
and 128 rows, milliseconds: 17, 21, 26, 46, 63 and 111; MKL 19, 29, 37, 52, 69 and 101. MiniLM with one text of 20, 50
and 80 tokens and with 4, 8, 16 and 32 texts: 6.3, 9.6, 12.0, 32, 38, 100 and 211; MKL 7.7, 11, 14, 37, 44, 113 and 255.

Two cores of an AMD EPYC without AVX-512, a layer of 768 to 768 with 1, 8, 16, 48 and 256 rows, of PyTorch's time: 0.65,
0.55, 0.6, 0.75 and 0.9.
"""

from __future__ import annotations

import torch

from runners.kernels.compiler import Compiler
from runners.kernels.host_cpu import computes_tiles
from runners.kernels.layout import GROUP
from runners.kernels.program import KernelCall, OfRows
from runners.kernels.source import FLOAT32_MULTIPLY
from runners.kernels.tiles import in_panels, parts, whole_tiles, worth_filling


class Float32Kernels:
    """Kernels for layers of float32; to be made only where they `compute`."""

    def __init__(self, compiler: Compiler) -> None:
        self._multiply = compiler.kernel(FLOAT32_MULTIPLY)

    @staticmethod
    def compute() -> bool:
        """Whether the processor has the instructions."""
        return computes_tiles()

    @staticmethod
    def fit(out_features: int) -> bool:
        """Return whether a layer's outputs fill whole panels, or nearly."""
        return worth_filling(out_features)

    @staticmethod
    def packed(weight: torch.Tensor) -> torch.Tensor:
        """Weights of shape (out_features, in_features) in the order in which they are read."""
        return in_panels(weight.detach().contiguous())

    def linear(self, inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Outputs of a layer, shape (rows, whole_panels(out_features)).

        Args:
            inputs: shape (rows, in_features), contiguous.
            bias: shape (whole_panels(out_features),).
        """
        rows, size = inputs.shape
        usual = _filled_up(rows)
        if usual != rows:
            # Whole tiles are read.
            inputs = torch.cat([inputs, inputs.new_empty(usual - rows, size)])
        outputs = inputs.new_empty(usual, len(bias))
        block, groups = parts(4 * size, len(bias), GROUP)
        self._multiply(
            -(-usual // block) * groups,
            inputs.data_ptr(), packed.data_ptr(), outputs.data_ptr(), bias.data_ptr(), usual, size, len(bias), block,
            groups,
        )  # fmt: skip
        return outputs[:rows]

    def calls(
        self, inputs: int, outputs: int, packed: torch.Tensor, bias: torch.Tensor, in_features: int
    ) -> list[KernelCall]:
        """The same for a program.

        Args:
            inputs, outputs: addresses of contiguous rows, as many as whole tiles have.
        """
        out_features = len(bias)
        block, groups = parts(4 * in_features, out_features, GROUP)
        units = OfRows(
            ("tiles of float32", out_features, in_features), lambda rows: -(-_filled_up(rows) // block) * groups
        )
        given = (
            inputs, packed.data_ptr(), outputs, bias.data_ptr(), OfRows("rows, filled up", _filled_up),
            in_features, out_features, block, groups,
        )  # fmt: skip
        return [KernelCall(self._multiply, units, given)]


def _filled_up(rows: int) -> int:
    """One row is computed by itself, in the same order."""
    return 1 if rows == 1 else whole_tiles(rows)

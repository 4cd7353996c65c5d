"""Linear layers with weights in the memory layout of a library's kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn
from torch.nn.functional import pad

from runners.kernels.instructions import has_onednn, supports_bfloat16
from runners.kernels.tiles import is_worth_padding, pack_panels, pad_to_panels, round_up_to_panels

if TYPE_CHECKING:
    from runners.kernels.float32_kernels import Float32Kernels
    from runners.kernels.program import KernelCall

#: Number of rows that oneDNN chooses a layout for. The layout for 256 rows is as fast as any other from 1 to 512 rows.
_LAYOUT_ROWS = 256


class PackedLinear(nn.Module):
    """Linear layer with weights that were packed once.

    PyTorch stores weights row by row, and its float32 kernel packs them in every call, which takes much of the time if
    there are few rows.

    Attributes:
        weight: shape (out_features, in_features); only its shape, type and device may be used.
        bias: shape (out_features,), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("bias", None if bias is None else bias.detach().clone(), persistent=False)


class OneDnnLinear(PackedLinear):
    """Linear layer in oneDNN's layout, which reaches 0.98 of the peak of two AMD EPYC cores."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _LAYOUT_ROWS)
        self.register_buffer("weight", packed, persistent=False)

    @staticmethod
    def supports(dtype: torch.dtype) -> bool:
        """Return whether this CPU has fast instructions for such layers of a type."""
        return has_onednn() if dtype == torch.float32 else dtype == torch.bfloat16 and supports_bfloat16()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map shape (..., in_features) to (..., out_features)."""
        rows = inputs.numel() // self.in_features
        if (rounded := round_up_rows(rows)) == rows:
            return self._compute(inputs)
        outputs = self._compute(pad(inputs.reshape(rows, -1), (0, 0, 0, rounded - rows)))
        return outputs[:rows].view(*inputs.shape[:-1], self.out_features)

    def _compute(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], None)
        return outputs


class TiledLinear(PackedLinear):
    """Linear layer in panels, the layout of our own kernels.

    Attributes:
        packed: weights as `pack_panels` returns them.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kernels: Float32Kernels) -> None:
        super().__init__(weight, bias)
        self._kernels = kernels
        self._bias = pad_to_panels(weight.new_zeros(self.out_features) if self.bias is None else self.bias)
        self.register_buffer("packed", pack_panels(weight.detach().contiguous()), persistent=False)
        # A single value with the shape of the weights, as only the shape is used and a copy would double the memory.
        self.register_buffer("weight", weight.new_zeros(()).expand(weight.shape), persistent=False)

    packed: torch.Tensor

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map shape (..., in_features) to (..., out_features).

        There may be gaps between the rows of the result.
        """
        outputs = self._kernels.compute_linear(
            inputs.reshape(-1, self.in_features).contiguous(), self.packed, self._bias
        )
        return outputs[:, : self.out_features].view(*inputs.shape[:-1], self.out_features)

    def build_calls(self, inputs: int, outputs: int) -> list[KernelCall] | None:
        """Return the calls that compute the layer in a program.

        Args:
            inputs, outputs: addresses of contiguous rows, with memory for whole tiles.

        Returns:
            None if outputs do not fill whole panels: the kernel would write past the end of each row.
        """
        if self.out_features != round_up_to_panels(self.out_features):
            return None
        return self._kernels.build_calls(inputs, outputs, self.packed, self._bias, self.in_features)


class Form(Protocol):
    """Form of packed layers: creates a layer from its weights."""

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None, /) -> PackedLinear: ...

    def supports(self, dtype: torch.dtype) -> bool:
        """Return whether this CPU has fast instructions for such layers of a type."""
        ...


class TiledForm:
    """Form that creates `TiledLinear` layers."""

    def __init__(self, kernels: Float32Kernels) -> None:
        self._kernels = kernels

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None, /) -> PackedLinear:
        return TiledLinear(weight, bias, self._kernels)

    def supports(self, dtype: torch.dtype) -> bool:
        return dtype == torch.float32

    def fits(self, weight: torch.Tensor) -> bool:
        """Return whether a layer with these weights can have the form."""
        return is_worth_padding(len(weight))


def round_up_rows(rows: int) -> int:
    """Round a number of rows up, by at most a sixteenth if there are many rows.

    oneDNN generates and keeps more than 0.5 MB of code for each number of rows: without rounding, this would grow to
    hundreds of megabytes.
    """
    if rows <= 16:
        return 1 << max(rows - 1, 0).bit_length() if rows else 0
    step = max(16, 1 << (rows - 1).bit_length() - 5)
    return -(-rows // step) * step

"""Linear layers whose weights lie in memory as a library's kernels read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn
from torch.nn.functional import pad

from runners.kernels.instructions import computes_bfloat16, has_onednn
from runners.kernels.mkl import mkl
from runners.kernels.tiles import fill_panels, whole_panels

if TYPE_CHECKING:
    from runners.kernels.float32_kernels import Float32Kernels
    from runners.kernels.program import KernelCall

#: Rows for which the layout of weights is chosen. That of 256 is as good as any other from one row to 512.
_ROWS = 256


class PackedLinear(nn.Module):
    """A linear layer with weights that were packed once.

    PyTorch keeps weights row by row, and its float32 kernel packs them anew in every call: much of the time where rows
    are few.

    Attributes:
        weight: shape (out_features, in_features); opaque, but its shape, type and device can be read.
        bias: shape (out_features,), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("bias", None if bias is None else bias.detach().clone(), persistent=False)

    @staticmethod
    def computes(dtype: torch.dtype) -> bool:
        """Whether this machine's CPU computes such layers of a type, and not slower than others."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """As `nn.Linear` shows itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class OneDnnLinear(PackedLinear):
    """In oneDNN's layout two cores of an AMD EPYC come to 0.98 of their peak."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
        self.register_buffer("weight", packed, persistent=False)

    @staticmethod
    def computes(dtype: torch.dtype) -> bool:
        return has_onednn() if dtype == torch.float32 else dtype == torch.bfloat16 and computes_bfloat16()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (..., in_features) to (..., out_features)."""
        rows = inputs.numel() // self.in_features
        if (usual := usual_rows(rows)) == rows:
            return self._compute(inputs)
        outputs = self._compute(pad(inputs.reshape(rows, -1), (0, 0, 0, usual - rows)))
        return outputs[:rows].view(*inputs.shape[:-1], self.out_features)

    def _compute(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], None)
        return outputs


class MklLinear(PackedLinear):
    """In MKL's layout, which serves any number of rows.

    24 layers of SmolLM2 on two cores of an Intel Xeon, milliseconds with 1, 4, 16, 64 and 128 rows: 15, 23, 27, 64 and
    107, where PyTorch's own take 15, 33, 43, 79 and 113, and oneDNN's 21, 29, 32, 82 and 115.

    Attributes:
        packed: as `Mkl.pack` gives them.
    """

    packed: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        library = mkl()
        assert library is not None, "this is a bug: there is no MKL"
        self._mkl = library
        self.register_buffer("packed", library.pack(weight), persistent=False)
        # Nobody reads their values, which would be all of the weights once more.
        self.register_buffer("weight", weight.new_zeros(()).expand(weight.shape), persistent=False)

    @staticmethod
    def computes(dtype: torch.dtype) -> bool:
        return dtype == torch.float32 and mkl() is not None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (..., in_features) to (..., out_features)."""
        inputs = inputs.contiguous()
        outputs = inputs.new_empty(*inputs.shape[:-1], self.out_features)
        if self.bias is not None:
            outputs.copy_(self.bias)
        if rows := inputs.numel() // self.in_features:
            self._mkl.multiply(rows, inputs, self.packed, outputs, add=self.bias is not None)
        return outputs


class TiledLinear(PackedLinear):
    """In panels, as our own kernels read them."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kernels: Float32Kernels) -> None:
        super().__init__(weight, bias)
        self._kernels = kernels
        self._added = fill_panels(weight.new_zeros(self.out_features) if self.bias is None else self.bias)
        self.register_buffer("packed", kernels.pack_weights(weight), persistent=False)
        # As MKL's.
        self.register_buffer("weight", weight.new_zeros(()).expand(weight.shape), persistent=False)

    packed: torch.Tensor

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (..., in_features) to (..., out_features); rows of outputs may lie further apart than they are long."""
        outputs = self._kernels.linear(inputs.reshape(-1, self.in_features).contiguous(), self.packed, self._added)
        return outputs[:, : self.out_features].view(*inputs.shape[:-1], self.out_features)

    def calls(self, inputs: int, outputs: int) -> list[KernelCall] | None:
        """The same for a program: addresses of contiguous rows, as many as whole tiles have.

        Returns:
            None if outputs do not fill whole panels: the kernel would write past the end of each row.
        """
        if self.out_features != whole_panels(self.out_features):
            return None
        return self._kernels.calls(inputs, outputs, self.packed, self._added, self.in_features)


class Form(Protocol):
    """What makes packed layers of a type of numbers."""

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None, /) -> PackedLinear: ...

    def computes(self, dtype: torch.dtype) -> bool:
        """As `PackedLinear.computes`."""
        ...


class Tiled:
    """The form of `TiledLinear`."""

    def __init__(self, kernels: Float32Kernels) -> None:
        self._kernels = kernels

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None, /) -> PackedLinear:
        return TiledLinear(weight, bias, self._kernels)

    def computes(self, dtype: torch.dtype) -> bool:
        return dtype == torch.float32

    def fits(self, weight: torch.Tensor) -> bool:
        """Whether a layer of such weights can have the form."""
        return self._kernels.fit(len(weight))


#: What layers are tried as.
FORMS: tuple[type[PackedLinear], ...] = (OneDnnLinear, MklLinear)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether there is a form for layers of a type."""
    return any(form.computes(dtype) for form in FORMS)


def usual_rows(rows: int) -> int:
    """The next number of rows of those that are computed with, at most a sixteenth more where there are many.

    oneDNN makes code for each number, more than half a megabyte, and keeps it: any number that comes would cost
    hundreds of megabytes.
    """
    if rows <= 16:
        return 1 << max(rows - 1, 0).bit_length() if rows else 0
    step = max(16, 1 << (rows - 1).bit_length() - 5)
    return -(-rows // step) * step

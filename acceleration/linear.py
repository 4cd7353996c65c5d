"""Linear layers whose weights lie in memory as the CPU's kernels read them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from acceleration.instructions import computes_bfloat16, has_onednn

#: Rows for which the layout of weights is chosen. That of 256 is as good as any other from one row to 512.
_ROWS = 256


#: Weights of a shape that are tried to see whether packing pays: more than what stays in a core's cache.
_TRIED_BYTES = 32 << 20

#: No number of rows may be much slower: what is tried lies in caches that a whole model does not fit into, where packed
#: weights look better than they are.
_LEAST_GAIN = 0.9

#: Times that each is tried; the shortest counts.
_TRIES = 5


class PackedLinear(nn.Module):
    """A linear layer computed by oneDNN from weights in its own layout.

    PyTorch keeps weights row by row, and its float32 kernel (MKL) packs them anew in every call: much of the time
    where rows are few. In oneDNN's layout two cores of an AMD EPYC come to 0.98 of their peak.

    Attributes:
        weight: shape (out_features, in_features); opaque, but its shape, type and device can be read.
        bias: shape (out_features,), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().clone(), persistent=False)

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

    def extra_repr(self) -> str:
        """As `nn.Linear` shows itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def usual_rows(rows: int) -> int:
    """The next number of rows of those that are computed with, at most a sixteenth more where there are many.

    oneDNN makes code for each number, more than half a megabyte, and keeps it: any number that comes would cost
    hundreds of megabytes.
    """
    if rows <= 16:
        return 1 << max(rows - 1, 0).bit_length() if rows else 0
    step = max(16, 1 << (rows - 1).bit_length() - 5)
    return -(-rows // step) * step


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine's CPU computes packed layers of a type faster than others."""
    return has_onednn() if dtype == torch.float32 else dtype == torch.bfloat16 and computes_bfloat16()


@torch.inference_mode()
def shapes_to_pack(model: nn.Module, rows: Sequence[int]) -> set[tuple[int, int]]:
    """Shapes, (out, in), of those layers of a model that are faster when they are packed; found by trying some.

    On processors of AMD most are; on Intel's, for which PyTorch's other kernels are made, that depends on the shape,
    the number of rows and of threads.

    Args:
        rows: numbers of rows that will be computed most; each counts the same.
    """
    alike: defaultdict[tuple[int, int], list[nn.Module]] = defaultdict(list)
    for _, _, layer in linear_layers(model):
        weight, _ = weight_and_bias(layer)
        shape = (weight.shape[0], weight.shape[1])
        fits = not alike[shape] or (len(alike[shape]) + 1) * weight.nbytes <= _TRIED_BYTES
        if fits and weight.device.type == "cpu" and can_pack(weight.dtype):
            alike[shape].append(layer)
    return {shape for shape, layers in alike.items() if layers and _packing_pays(layers, rows)}


def _packing_pays(plain: Sequence[nn.Module], rows: Sequence[int]) -> bool:
    packed = [PackedLinear(*weight_and_bias(layer)) for layer in plain]
    gains = []
    for number in rows:
        inputs = [torch.randn(number, layer.in_features, dtype=layer.weight.dtype) for layer in packed]
        gains.append(_seconds(plain, inputs) / max(_seconds(packed, inputs), 1e-9))
    return math.prod(gains) > 1 and min(gains) >= _LEAST_GAIN


def _seconds(layers: Sequence[nn.Module], inputs: Sequence[torch.Tensor]) -> float:
    """What all of them take, at best."""
    best = math.inf
    for _ in range(_TRIES):
        started = perf_counter()
        for layer, given in zip(layers, inputs, strict=True):
            layer(given)
        best = min(best, perf_counter() - started)
    return best


def pack(model: nn.Module, shapes: Container[tuple[int, int]]) -> int:
    """Replace linear layers of a model on the CPU, one after the other, so that two copies of one exist at most.

    A layer whose weights are another's too, as those of an output head often are the embeddings', gets a copy.

    Args:
        shapes: (out, in), of the layers that are replaced.

    Returns:
        How many were replaced.
    """
    return sum(_replace(parent, name, layer, shapes) for parent, name, layer in list(linear_layers(model)))


def linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Each linear layer of the plain kinds, with the module it belongs to and its name there."""
    for parent in model.modules():
        for name, child in parent.named_children():
            # Not of derived classes: those compute something else.
            if type(child) in (nn.Linear, Conv1D):
                yield parent, name, child


def weight_and_bias(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Shapes (out, in) and (out,); GPT-2's `Conv1D` keeps the former the other way around."""
    return (layer.weight.t() if type(layer) is Conv1D else layer.weight), layer.bias


def _replace(parent: nn.Module, name: str, layer: nn.Module, shapes: Container[tuple[int, int]]) -> int:
    weight, bias = weight_and_bias(layer)
    if weight.device.type != "cpu" or not can_pack(weight.dtype) or (weight.shape[0], weight.shape[1]) not in shapes:
        return 0
    setattr(parent, name, PackedLinear(weight, bias))
    return 1

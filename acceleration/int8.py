"""Linear layers computed in eight bits, from weights that are kept so."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from acceleration.linear import linear_layers, weight_and_bias
from acceleration.packed import usual_rows

#: The largest number of eight bits with a sign.
_LARGEST = 127

#: What stands for nought in numbers without a sign: the bit of it turned over.
_ZERO = 128

#: A scale is never nought.
_TINY = 1e-30


def _round(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shape (rows, size) to numbers without a sign, `_ZERO` for nought, and what 127 of them stand for.

    The former may be followed by rows of nothing; the latter has shape (rows, 1).
    """
    # Each of these is one pass of vector instructions. `vector_norm(inf)` is ten times slower than the two extremes,
    # and rounding to numbers without a sign three times slower than to those with one.
    largest = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True).neg_()).clamp_(min=_TINY)
    rounded = (rows * (_LARGEST / largest)).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(_ZERO)
    usual = usual_rows(len(rows))
    return (pad(rounded, (0, 0, 0, usual - len(rows))) if usual > len(rows) else rounded), largest


class Int8Linear(nn.Module):
    """A linear layer with weights of eight bits, whose inputs are rounded to eight bits as they come.

    Each output has its own scale for weights, and each token its own for inputs, so that no token's result depends on
    what else is in its batch. Source: https://arxiv.org/abs/2206.01861 (token-wise dynamic quantization).

    Attributes:
        weight: shape (out_features, in_features), without values: what is asked of it is its shape and type.
        bias: shape (out_features,), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().float()
        scales = (weight.abs().amax(1) / _LARGEST).clamp(min=_TINY)
        rounded = (weight / scales[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, [usual_rows(256), self.in_features])
        self._scales = scales / _LARGEST
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self.register_buffer("weight", torch.empty_like(weight, device="meta"), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone(), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (..., in_features) to (..., out_features)."""
        rounded, largest = _round(inputs.reshape(-1, self.in_features).float())
        outputs: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        outputs = outputs[: len(largest)]
        if self.bias is None:
            outputs.mul_(largest)
        else:
            torch.addcmul(self.bias, outputs, largest, out=outputs)
        return outputs.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)


def quantize(model: PreTrainedModel) -> int:
    """Replace the linear layers of a model on the CPU, one after the other; its head, small and decisive, stays.

    Returns:
        How many were replaced.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    body = [(parent, name, layer) for parent, name, layer in linear_layers(model.base_model) if layer is not head]
    for parent, name, layer in body:
        setattr(parent, name, Int8Linear(*weight_and_bias(layer)))
    return len(body)


def has_int8_layers(model: nn.Module) -> bool:
    """Whether layers are computed in eight bits, so that rounding may magnify what little two ways differ in."""
    return any(isinstance(module, Int8Linear) for module in model.modules())

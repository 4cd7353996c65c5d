"""Linear layers computed in eight bits, from weights that are kept so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from runners.kernels.linear import CLEARLY_FASTER, linear_layers, pick_fastest, sample_layers, weight_and_bias
from runners.kernels.packed import round_up_rows
from runners.kernels.tiles import fill_panels, whole_panels

if TYPE_CHECKING:
    from runners.kernels.int8_kernels import Int8Kernels
    from runners.kernels.program import KernelCall, Scratch

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
    usual = round_up_rows(len(rows))
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
        self.register_buffer("weight", torch.empty_like(weight, device="meta"), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone(), persistent=False)
        weight = weight.detach().float()
        scales = (weight.abs().amax(1) / _LARGEST).clamp(min=_TINY)
        # GPT-2's `Conv1D` gives a transposed view, whose order oneDNN's packing does not heed.
        self._keep((weight / scales[:, None]).round().to(torch.int8).contiguous(), scales)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (..., in_features) to (..., out_features)."""
        outputs = self._compute(inputs.reshape(-1, self.in_features).float())
        return outputs.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def _keep(self, weight: torch.Tensor, scales: torch.Tensor) -> None:
        """Keep weights, int8, and what one of each output's stands for."""
        raise NotImplementedError

    def _compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (rows, in_features) to (rows, out_features), both float32."""
        raise NotImplementedError


class OneDnnInt8Linear(Int8Linear):
    """By oneDNN, which on some CPUs has instructions for many rows that no other has."""

    def _keep(self, weight: torch.Tensor, scales: torch.Tensor) -> None:
        self._packed = torch.ops.onednn.qlinear_prepack(weight, [round_up_rows(256), self.in_features])
        self._scales = scales / _LARGEST
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)

    def _compute(self, inputs: torch.Tensor) -> torch.Tensor:
        rounded, largest = _round(inputs)
        outputs: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        outputs = outputs[: len(largest)]
        return outputs.mul_(largest) if self.bias is None else torch.addcmul(self.bias, outputs, largest, out=outputs)


class VnniInt8Linear(Int8Linear):
    """By our own kernels, which read weights once and need no operation beside them."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kernels: Int8Kernels) -> None:
        self._kernels = kernels
        super().__init__(weight, bias)

    def _keep(self, weight: torch.Tensor, scales: torch.Tensor) -> None:
        bias = torch.zeros(self.out_features) if self.bias is None else self.bias
        zeros = _ZERO * weight.sum(1, dtype=torch.int32)
        self._layer = self._kernels.pack_weights(weight), fill_panels(scales), fill_panels(zeros), fill_panels(bias)

    def _compute(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs if inputs.stride(1) == 1 else inputs.contiguous()
        return self._kernels.linear(inputs, *self._layer)[:, : self.out_features]

    def calls(self, inputs: int, outputs: int, scratch: Scratch) -> list[KernelCall] | None:
        """The same for a program: addresses of contiguous rows of float32, as many as `scratch` has.

        Returns:
            None if outputs do not fill whole panels: the kernel would write past the end of each row.
        """
        if self.out_features != whole_panels(self.out_features):
            return None
        return self._kernels.calls(inputs, outputs, self._layer, (self.out_features, self.in_features), scratch)


class PreciseInt8Linear(VnniInt8Linear):
    """With inputs that are rounded twice: what the first rounding leaves is rounded by itself.

    So only weights are of eight bits. Twice as many rows cost nothing where they are few.
    """

    def _compute(self, inputs: torch.Tensor) -> torch.Tensor:
        unit = inputs.abs().amax(1, keepdim=True).clamp_(min=_TINY) / _LARGEST
        rounded = (inputs / unit).round_().mul_(unit)
        both = super()._compute(torch.cat([rounded, inputs - rounded]))
        total: torch.Tensor = both[: len(inputs)].add_(both[len(inputs) :])
        # It is in both.
        return total if self.bias is None else total.sub_(self.bias)


def quantize(model: PreTrainedModel, rows: Sequence[int], kernels: Int8Kernels | None = None) -> int:
    """Replace the linear layers of a model on the CPU, one after the other.

    A classifier's head, small and decisive, stays. One with an output for each token of a vocabulary, which takes half
    as long as all layers of a small model, is computed precisely: what SmolLM2 writes is then 0.001 nats further from
    what it writes in float32, where its layers in eight bits move it by 0.038.

    Args:
        rows: numbers of tokens that will be computed together most.
        kernels: to be used unless oneDNN's are clearly faster.

    Returns:
        How many were replaced.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    body = [place for place in linear_layers(model.base_model) if place[2] is not head]
    forms = {shape: _fastest_form(layers, rows, kernels) for shape, layers in sample_layers(body).items()}
    heads = [place for place in linear_layers(model) if place[2] is head] if kernels is not None and body else []
    for parent, name, layer in heads:
        weight, bias = weight_and_bias(layer)
        if kernels is not None and kernels.fit(*weight.shape):
            setattr(parent, name, PreciseInt8Linear(weight, bias, kernels))
    quantized = len(body)
    while body:
        # Nobody keeps what is replaced.
        parent, name, layer = body.pop()
        weight, bias = weight_and_bias(layer)
        setattr(parent, name, forms[weight.shape[0], weight.shape[1]](weight, bias))
    return quantized


def _fastest_form(
    plain: Sequence[nn.Module], rows: Sequence[int], kernels: Int8Kernels | None
) -> Callable[[torch.Tensor, torch.Tensor | None], Int8Linear]:
    weight, _ = weight_and_bias(plain[0])
    if kernels is None or not kernels.fit(*weight.shape):
        return OneDnnInt8Linear
    own = partial(VnniInt8Linear, kernels=kernels)
    forms: Sequence[Callable[[torch.Tensor, torch.Tensor | None], Int8Linear]] = own, OneDnnInt8Linear
    return pick_fastest(
        {form: [form(*weight_and_bias(layer)) for layer in plain] for form in forms}, rows, CLEARLY_FASTER
    )


def has_int8_layers(model: nn.Module) -> bool:
    """Whether layers are computed in eight bits, so that rounding may magnify what little two ways differ in."""
    return any(isinstance(module, Int8Linear) for module in model.modules())

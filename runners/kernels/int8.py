"""Linear layers with int8 weights and dynamic int8 quantization of inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from runners.kernels.linear import CLEARLY_FASTER, find_linear_layers, get_weight_and_bias, pick_fastest, sample_layers
from runners.kernels.packed import round_up_rows
from runners.kernels.tiles import pack_panels, pad_to_panels, round_up_to_panels

if TYPE_CHECKING:
    from runners.kernels.int8_kernels import Int8Kernels
    from runners.kernels.program import KernelCall, Scratch

#: Largest int8 value.
_LARGEST = 127

#: Zero point of uint8 values; adding it flips the sign bit of an int8.
_ZERO = 128

#: Smallest scale, so that no scale is zero.
_TINY = 1e-30


def _round_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round rows of shape (rows, size) to uint8 with the zero point `_ZERO`.

    Returns:
        The rounded rows, which may be followed by rows of zeros, and the largest absolute value of each row, shape
        (rows, 1).
    """
    # Each operation is one vectorized pass. `vector_norm(inf)` is ten times slower than `amax` and `amin`, and
    # converting to uint8 three times slower than to int8.
    largest = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True).neg_()).clamp_(min=_TINY)
    rounded = (rows * (_LARGEST / largest)).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(_ZERO)
    padded = round_up_rows(len(rows))
    return (pad(rounded, (0, 0, 0, padded - len(rows))) if padded > len(rows) else rounded), largest


class Int8Linear(nn.Module):
    """Linear layer with int8 weights, which rounds its inputs to int8.

    Each output has its own scale for weights, and each token its own scale for inputs, so a token's result does not
    depend on the rest of its batch. Source: https://arxiv.org/abs/2206.01861 (token-wise dynamic quantization).

    Attributes:
        weight: shape (out_features, in_features), on the meta device: other code reads only its shape and type.
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
        # Contiguous, because oneDNN's packing ignores the strides of the transposed weights of GPT-2's `Conv1D`.
        self._store_weights((weight / scales[:, None]).round().to(torch.int8).contiguous(), scales)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map shape (..., in_features) to (..., out_features)."""
        outputs = self._compute_rows(inputs.reshape(-1, self.in_features).float())
        return outputs.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def _store_weights(self, weight: torch.Tensor, scales: torch.Tensor) -> None:
        """Store int8 weights and the scale of each output."""
        raise NotImplementedError

    def _compute_rows(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map shape (rows, in_features) to (rows, out_features), both float32."""
        raise NotImplementedError


class OneDnnInt8Linear(Int8Linear):
    """Int8 layer by oneDNN.

    Only oneDNN uses the matrix instructions of some CPUs for many rows.
    """

    def _store_weights(self, weight: torch.Tensor, scales: torch.Tensor) -> None:
        self._packed = torch.ops.onednn.qlinear_prepack(weight, [round_up_rows(256), self.in_features])
        self._scales = scales / _LARGEST
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)

    def _compute_rows(self, inputs: torch.Tensor) -> torch.Tensor:
        rounded, largest = _round_rows(inputs)
        outputs: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        outputs = outputs[: len(largest)]
        return outputs.mul_(largest) if self.bias is None else torch.addcmul(self.bias, outputs, largest, out=outputs)


class VnniInt8Linear(Int8Linear):
    """Int8 layer by our own kernels, which read weights once and need no other operation."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kernels: Int8Kernels) -> None:
        self._kernels = kernels
        super().__init__(weight, bias)

    def _store_weights(self, weight: torch.Tensor, scales: torch.Tensor) -> None:
        bias = torch.zeros(self.out_features) if self.bias is None else self.bias
        zeros = _ZERO * weight.sum(1, dtype=torch.int32)
        self._layer = pack_panels(weight), pad_to_panels(scales), pad_to_panels(zeros), pad_to_panels(bias)

    def _compute_rows(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs if inputs.stride(1) == 1 else inputs.contiguous()
        return self._kernels.compute_linear(inputs, *self._layer)[:, : self.out_features]

    def build_calls(self, inputs: int, outputs: int, scratch: Scratch) -> list[KernelCall] | None:
        """Return the calls that compute the layer in a program.

        Args:
            inputs, outputs: addresses of contiguous float32 rows; `outputs` has as many rows as `scratch`.
            scratch: memory for the rounded inputs.

        Returns:
            None if outputs do not fill whole panels: the kernel would write past the end of each row.
        """
        if self.out_features != round_up_to_panels(self.out_features):
            return None
        return self._kernels.build_calls(inputs, outputs, self._layer, (self.out_features, self.in_features), scratch)


class PreciseInt8Linear(VnniInt8Linear):
    """Int8 layer with more precise inputs.

    The error of the first rounding is rounded to int8 as well, so only the weights lose precision. It computes twice as
    many rows, which costs nothing if there are few.
    """

    def _compute_rows(self, inputs: torch.Tensor) -> torch.Tensor:
        scale = inputs.abs().amax(1, keepdim=True).clamp_(min=_TINY) / _LARGEST
        rounded = (inputs / scale).round_().mul_(scale)
        both = super()._compute_rows(torch.cat([rounded, inputs - rounded]))
        total: torch.Tensor = both[: len(inputs)].add_(both[len(inputs) :])
        # Both parts include the bias.
        return total if self.bias is None else total.sub_(self.bias)


def quantize_layers(model: PreTrainedModel, rows: Sequence[int], kernels: Int8Kernels | None = None) -> int:
    """Replace the linear layers of a model on the CPU by int8 layers, one after the other.

    A classifier's head is not replaced: it is small, and the result depends on it most. A language model's head, which
    takes half as long as all layers of a small model, becomes a `PreciseInt8Linear`: it moves SmolLM2 by 0.001 nats
    from float32, where its layers in int8 move it by 0.038.

    Args:
        rows: the most frequent numbers of tokens in a forward pass.
        kernels: kernels that are used unless oneDNN is clearly faster.

    Returns:
        The number of replaced layers, without the head.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    body = [entry for entry in find_linear_layers(model.base_model) if entry[2] is not head]
    forms = {shape: _pick_fastest_form(layers, rows, kernels) for shape, layers in sample_layers(body).items()}
    heads = [entry for entry in find_linear_layers(model) if entry[2] is head] if kernels is not None and body else []
    for parent, name, layer in heads:
        weight, bias = get_weight_and_bias(layer)
        if kernels is not None and kernels.fits(*weight.shape):
            setattr(parent, name, PreciseInt8Linear(weight, bias, kernels))
    quantized = len(body)
    while body:
        # `pop` drops the reference to the plain layer, so its memory is freed.
        parent, name, layer = body.pop()
        weight, bias = get_weight_and_bias(layer)
        setattr(parent, name, forms[weight.shape[0], weight.shape[1]](weight, bias))
    return quantized


def _pick_fastest_form(
    plain: Sequence[nn.Module], rows: Sequence[int], kernels: Int8Kernels | None
) -> Callable[[torch.Tensor, torch.Tensor | None], Int8Linear]:
    weight, _ = get_weight_and_bias(plain[0])
    if kernels is None or not kernels.fits(*weight.shape):
        return OneDnnInt8Linear
    own = partial(VnniInt8Linear, kernels=kernels)
    forms: Sequence[Callable[[torch.Tensor, torch.Tensor | None], Int8Linear]] = own, OneDnnInt8Linear
    return pick_fastest(
        {form: [form(*get_weight_and_bias(layer)) for layer in plain] for form in forms}, rows, CLEARLY_FASTER
    )


def has_int8_layers(model: nn.Module) -> bool:
    """Return whether a model has int8 layers, whose rounding may magnify small differences."""
    return any(isinstance(module, Int8Linear) for module in model.modules())

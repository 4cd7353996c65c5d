"""Replace norms, gated feed-forwards and rotary embeddings of a model by one kernel each.

A module is recognized by its results on trial inputs, not by its name. It keeps its type and its weights and gets
another `forward`. The new one calls the original for inputs that do not fit the kernel, and for large batches, for
which PyTorch's operations with all threads are faster.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import gelu

from runners.kernels.merged import find_merged_pair
from runners.kernels.parallel import encode_float

if TYPE_CHECKING:
    from runners.kernels.kernels import Kernels

#: Elements from which all threads share the work.
LARGE = 1 << 14

#: Largest number of rows for which a kernel is faster than PyTorch's operations.
MAX_ROWS = 512

#: Name of the function for rotary embeddings in all models of transformers that have one.
_ROTATION = "apply_rotary_pos_emb"

#: Gates x / (1 + exp(-x (a + b x²))): SiLU, GELU by tanh, and GELU as OpenAI's CLIP has it.
_GATES = ((1.0, 0.0), (1.5957691216057308, 0.0713548162726009), (1.702, 0.0))

#: Largest difference between results relative to the largest value, for one or two additional roundings.
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@torch.inference_mode()
def fuse_modules(model: nn.Module, kernels: Kernels) -> int:
    """Install kernels in the modules of a CPU model that compute the same with them.

    Returns:
        The number of changed modules.
    """
    rotations = _Rotations(kernels)
    fused = 0
    for module in model.modules():
        if "forward" in vars(module):
            continue  # other code has replaced it already
        forward = (
            _fuse_norm(module, kernels)
            or _fuse_gate(module, kernels)
            or _fuse_activation(module)
            or rotations.build_forward(module)
        )
        if forward is not None:
            setattr(module, "forward", forward)  # noqa: B010  # `forward` is not a method any more
            fused += 1
    return fused


class FusedNorm:
    """RMS norm as a kernel: x / sqrt(mean(x²) + eps) * factors.

    Attributes:
        factors: shape (size,), float32.
        eps: the model's epsilon as an argument of a kernel.
    """

    def __init__(self, plain: Callable[..., Any], factors: torch.Tensor, eps: float, kernels: Kernels) -> None:
        self.factors, self.eps = factors, encode_float(eps)
        self._plain, self._kernel, self._dtype = plain, kernels.rms_norm, kernels.dtype

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalize rows.

        Args:
            inputs: shape (..., size) and contiguous, or shape (1, tokens, heads, size) as part of a wider tensor.

        Returns:
            The same shape, contiguous.
        """
        size = len(self.factors)
        rows = inputs.numel() // size
        if not 0 < rows <= MAX_ROWS or inputs.dtype != self._dtype:
            return self._plain(inputs)  # type: ignore[no-any-return]
        if inputs.is_contiguous():
            tokens, distance = rows, size
        elif inputs.ndim == 4 and len(inputs) == 1 and inputs.stride()[2:] == (size, 1):
            tokens, distance = inputs.shape[1], inputs.stride(1)
        else:
            return self._plain(inputs)  # type: ignore[no-any-return]
        outputs = inputs.new_empty(inputs.shape)
        rows //= tokens
        self._kernel(
            tokens, inputs.data_ptr(), self.factors.data_ptr(), outputs.data_ptr(),
            rows, size, distance, rows * size, self.eps, large=inputs.numel() >= LARGE,
        )  # fmt: skip
        return outputs


def _fuse_norm(module: nn.Module, kernels: Kernels) -> FusedNorm | None:
    weights = list(module.parameters())
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if len(weights) != 1 or weights[0].ndim != 1 or not isinstance(eps, float):
        return None
    weight = weights[0]
    if weight.device.type != "cpu" or weight.dtype != kernels.dtype:
        return None
    # With a mean that is not 0, so that norms that subtract the mean give other results.
    inputs = torch.randn(3, len(weight)).add(1).to(weight.dtype)
    for factors in (weight.float().clone(), 1 + weight.float()):
        fused = FusedNorm(module.forward, factors, eps, kernels)
        if _compute_same(partial(module, inputs), partial(fused, inputs)):
            return fused
    return None


class FusedGate:
    """Gated feed-forward with a kernel: down(act(gate(x)) * up(x)).

    Attributes:
        kernel: computes act(gate) * up.
        merged: the merged layer that computes gate(x) and up(x); None if they are not merged.
        factors: constants of the activation as arguments of the kernel.
        down: the model's own layer.
    """

    def __init__(self, module: Any, linear: float, cubic: float, kernels: Kernels) -> None:
        self._gate, self._up, self.down, self._act = module.gate_proj, module.up_proj, module.down_proj, module.act_fn
        self.factors = encode_float(linear), encode_float(cubic)
        self.kernel, self._dtype = kernels.gate, kernels.dtype
        # Called directly, without going through the two `LinearPart` modules.
        self.merged = find_merged_pair(self._gate, self._up)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the feed-forward of inputs of shape (..., size)."""
        gate, up = (self._gate(inputs), self._up(inputs)) if self.merged is None else self.merged(inputs).chunk(2, -1)
        gates, ups = gate.flatten(0, -2), up.flatten(0, -2)
        rows, size = gates.shape
        distance = gates.stride(0)
        fits = gates.dtype == ups.dtype == self._dtype and gates.stride() == ups.stride() == (distance, 1)
        if not 0 < rows <= MAX_ROWS or not fits:
            return self.down(self._act(gate) * up)  # type: ignore[no-any-return]
        gated = gate.new_empty(gate.shape)
        self.kernel(
            rows, gates.data_ptr(), ups.data_ptr(), gated.data_ptr(), size, distance, *self.factors,
            large=rows * size >= LARGE,
        )  # fmt: skip
        return self.down(gated)  # type: ignore[no-any-return]


def _fuse_gate(module: Any, kernels: Kernels) -> FusedGate | None:
    if any(getattr(module, name, None) is None for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return None
    weight = getattr(module.gate_proj, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return None
    values = torch.linspace(-8, 8, 257)
    inputs = torch.randn(1, 3, weight.shape[1]).to(kernels.dtype)
    for linear, cubic in _GATES:
        gated = values * torch.sigmoid(values * (linear + cubic * values**2))
        if _compute_same(partial(module.act_fn, values), gated.clone):
            fused = FusedGate(module, linear, cubic, kernels)
            return fused if _compute_same(partial(module, inputs), partial(fused, inputs)) else None
    return None


def _fuse_activation(module: nn.Module) -> Callable[..., torch.Tensor] | None:
    """Return PyTorch's GELU (tanh) if a module computes it in eight operations."""
    if type(module).__module__ != "transformers.activations":
        return None
    values, one_operation = torch.linspace(-8, 8, 257), partial(gelu, approximate="tanh")
    return one_operation if _compute_same(partial(module, values), partial(one_operation, values)) else None


class _Rotation:
    """Rotary embedding as a kernel.

    It rotates the first half of a head with its second half.
    """

    def __init__(self, plain: Callable[..., Any], kernels: Kernels) -> None:
        self._plain, self._kernel, self._dtype = plain, kernels.rotate, kernels.dtype

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *others: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate queries and keys by their positions.

        Args:
            q, k: shape (1, heads, tokens, size).
            cos, sin: shape (1, tokens, size).
        """
        if (
            others
            or named
            or not (self._fits_angles(cos, sin) and self._fits_heads(q, cos) and self._fits_heads(k, cos))
        ):
            return self._plain(q, k, cos, sin, *others, **named)  # type: ignore[no-any-return]
        return self._rotate_heads(q, cos, sin), self._rotate_heads(k, cos, sin)

    def _fits_angles(self, *angles: torch.Tensor) -> bool:
        return all(
            angle.ndim == 3
            and len(angle) == 1
            and angle.shape[1] <= MAX_ROWS
            and angle.dtype == self._dtype
            and angle.is_contiguous()
            for angle in angles
        )

    def _fits_heads(self, heads: torch.Tensor, cos: torch.Tensor) -> bool:
        size = cos.shape[2]
        return (
            heads.dtype == self._dtype
            and (len(heads), *heads.shape[2:]) == cos.shape
            and (heads.stride(1), heads.stride(3)) == (size, 1)
        )

    def _rotate_heads(self, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        _, number, tokens, size = heads.shape
        rotated = heads.new_empty(1, tokens, number, size)
        self._kernel(
            tokens, heads.data_ptr(), cos.data_ptr(), sin.data_ptr(), rotated.data_ptr(),
            number, size, heads.stride(2), number * size, large=rotated.numel() >= LARGE,
        )  # fmt: skip
        return rotated.transpose(1, 2)


class _Rotations:
    """Rotary embeddings of a model's attention modules."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._rotations: dict[Any, _Rotation | None] = {}
        self._forwards: dict[FunctionType, FunctionType] = {}

    def build_forward(self, module: nn.Module) -> Callable[..., Any] | None:
        """Return a module's `forward` with the kernel for its rotary embedding.

        Returns:
            None if the module has no rotary embedding, or one that computes other results.
        """
        forward = type(module).forward
        if not isinstance(forward, FunctionType) or _ROTATION not in forward.__code__.co_names:
            return None
        plain = forward.__globals__.get(_ROTATION)
        if plain not in self._rotations:
            self._rotations[plain] = self._verify_rotation(plain)
        rotation = self._rotations[plain]
        if rotation is None:
            return None
        if forward not in self._forwards:
            # A copy of the function with its own globals: other models of the same source file must not change.
            names = {**forward.__globals__, _ROTATION: rotation}
            replaced = FunctionType(
                forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
            )
            replaced.__kwdefaults__ = forward.__kwdefaults__
            self._forwards[forward] = replaced
        return MethodType(self._forwards[forward], module)

    def _verify_rotation(self, plain: Any) -> _Rotation | None:
        rotation = _Rotation(plain, self._kernels)
        heads = torch.randn(1, 3, 6, 8).to(self._kernels.dtype)
        q, k = heads[:, :, :4].transpose(1, 2), heads[:, :, 4:].transpose(1, 2)
        cos, sin = torch.randn(2, 1, 3, 8).to(self._kernels.dtype)

        def rotate_both(rotate: Callable[..., Any]) -> torch.Tensor:
            return torch.cat(rotate(q, k, cos, sin), 1)

        return rotation if _compute_same(partial(rotate_both, plain), partial(rotate_both, rotation)) else None


def _compute_same(plain: Callable[[], torch.Tensor], fused: Callable[[], torch.Tensor]) -> bool:
    """Return whether two functions compute the same except for rounding."""
    try:
        expected, result = plain(), fused()
    except Exception:  # the model's own code may not accept the trial inputs
        return False
    if expected.shape != result.shape or expected.dtype != result.dtype:
        return False
    tolerance = _ROUNDING[expected.dtype] * float(expected.abs().max())
    return bool((expected - result).abs().max() <= tolerance)

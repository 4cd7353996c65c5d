"""Norms, gated feed-forwards and rotations of a model, each as one kernel; seen by trying, not by their names.

Modules keep their type and their weights: what they compute is another function, which goes back to the model's own for
what does not fit a kernel, or has so many rows that five operations by all threads are faster than one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import gelu

from runners.kernels.merged import merged_pair

if TYPE_CHECKING:
    from runners.kernels.kernels import Kernels

#: Numbers from which on all threads share the work.
LARGE = 1 << 14

#: Rows up to which one thread with a kernel is faster.
MOST_ROWS = 512

#: What transformers calls the function that turns queries and keys by their positions, in all models that have one.
_ROTATION = "apply_rotary_pos_emb"

#: Gates x / (1 + exp(-x (a + b x²))): SiLU, GELU by tanh, and GELU as OpenAI's CLIP has it.
_GATES = ((1.0, 0.0), (1.5957691216057308, 0.0713548162726009), (1.702, 0.0))

#: How far numbers may be apart, relative to the largest: rounded once or twice more.
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@torch.inference_mode()
def fuse(model: nn.Module, kernels: Kernels) -> int:
    """Let modules of a model on the CPU compute with kernels, where that gives the same.

    Returns:
        How many do.
    """
    rotations = _Rotations(kernels)
    fused = 0
    for module in model.modules():
        if "forward" in vars(module):
            continue  # it is somebody else's
        forward = (
            _norm(module, kernels) or _gated(module, kernels) or _activation(module) or rotations.forward_of(module)
        )
        if forward is not None:
            setattr(module, "forward", forward)  # noqa: B010  # which is no method any more
            fused += 1
    return fused


class FusedNorm:
    """RMS norm: x / sqrt(mean(x²) + eps), times a factor for each number of a row.

    Attributes:
        factors: shape (size,), float32.
        eps: the model's, as kernels are given it.
    """

    def __init__(self, plain: Callable[..., Any], factors: torch.Tensor, eps: float, kernels: Kernels) -> None:
        self.factors, self.eps = factors, kernels.bits(eps)
        self._plain, self._kernel, self._dtype = plain, kernels.rms_norm, kernels.dtype

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (..., size), contiguous or (1, tokens, heads, size) beside others; normed, and contiguous."""
        size = len(self.factors)
        rows = inputs.numel() // size
        if not 0 < rows <= MOST_ROWS or inputs.dtype != self._dtype:
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


def _norm(module: nn.Module, kernels: Kernels) -> FusedNorm | None:
    weights = list(module.parameters())
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if len(weights) != 1 or weights[0].ndim != 1 or not isinstance(eps, float):
        return None
    weight = weights[0]
    if weight.device.type != "cpu" or weight.dtype != kernels.dtype:
        return None
    # With a mean that is not 0, so that those who subtract it are told apart.
    inputs = torch.randn(3, len(weight)).add(1).to(weight.dtype)
    for factors in (weight.float().clone(), 1 + weight.float()):
        fused = FusedNorm(module.forward, factors, eps, kernels)
        if _same(partial(module, inputs), partial(fused, inputs)):
            return fused
    return None


class FusedGate:
    """A feed-forward down(act(gate(x)) up(x)).

    Attributes:
        kernel: gates.
        both: computes gate(x) and up(x) as one, where they are merged.
        factors: of the gate, as the kernel is given them.
        down: as the model has it.
    """

    def __init__(self, module: Any, linear: float, cubic: float, kernels: Kernels) -> None:
        self._gate, self._up, self.down, self._act = module.gate_proj, module.up_proj, module.down_proj, module.act_fn
        self.factors = kernels.bits(linear), kernels.bits(cubic)
        self.kernel, self._dtype = kernels.gate, kernels.dtype
        # Without asking for each.
        self.both = merged_pair(self._gate, self._up)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (..., size)."""
        gate, up = (self._gate(inputs), self._up(inputs)) if self.both is None else self.both(inputs).chunk(2, -1)
        gates, ups = gate.flatten(0, -2), up.flatten(0, -2)
        rows, size = gates.shape
        distance = gates.stride(0)
        fits = gates.dtype == ups.dtype == self._dtype and gates.stride() == ups.stride() == (distance, 1)
        if not 0 < rows <= MOST_ROWS or not fits:
            return self.down(self._act(gate) * up)  # type: ignore[no-any-return]
        gated = gate.new_empty(gate.shape)
        self.kernel(
            rows, gates.data_ptr(), ups.data_ptr(), gated.data_ptr(), size, distance, *self.factors,
            large=rows * size >= LARGE,
        )  # fmt: skip
        return self.down(gated)  # type: ignore[no-any-return]


def _gated(module: Any, kernels: Kernels) -> FusedGate | None:
    if any(getattr(module, name, None) is None for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return None
    weight = getattr(module.gate_proj, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return None
    numbers = torch.linspace(-8, 8, 257)
    inputs = torch.randn(1, 3, weight.shape[1]).to(kernels.dtype)
    for linear, cubic in _GATES:
        gated = numbers * torch.sigmoid(numbers * (linear + cubic * numbers**2))
        if _same(partial(module.act_fn, numbers), gated.clone):
            fused = FusedGate(module, linear, cubic, kernels)
            return fused if _same(partial(module, inputs), partial(fused, inputs)) else None
    return None


def _activation(module: nn.Module) -> Callable[..., torch.Tensor] | None:
    """PyTorch's GELU by tanh, which is one operation, for one that is written out in eight."""
    if type(module).__module__ != "transformers.activations":
        return None
    numbers, one_operation = torch.linspace(-8, 8, 257), partial(gelu, approximate="tanh")
    return one_operation if _same(partial(module, numbers), partial(one_operation, numbers)) else None


class _Rotation:
    """Queries and keys turned by their positions, the first half of a head's numbers with the second."""

    def __init__(self, plain: Callable[..., Any], kernels: Kernels) -> None:
        self._plain, self._kernel, self._dtype = plain, kernels.rotate, kernels.dtype

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *others: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Shapes (1, heads, tokens, size), and (1, tokens, size) of cosines and sines."""
        if others or named or not (self._fits(cos, sin) and self._turns(q, cos) and self._turns(k, cos)):
            return self._plain(q, k, cos, sin, *others, **named)  # type: ignore[no-any-return]
        return self._turned(q, cos, sin), self._turned(k, cos, sin)

    def _fits(self, *angles: torch.Tensor) -> bool:
        return all(
            angle.ndim == 3
            and len(angle) == 1
            and angle.shape[1] <= MOST_ROWS
            and angle.dtype == self._dtype
            and angle.is_contiguous()
            for angle in angles
        )

    def _turns(self, heads: torch.Tensor, cos: torch.Tensor) -> bool:
        size = cos.shape[2]
        return (
            heads.dtype == self._dtype
            and (len(heads), *heads.shape[2:]) == cos.shape
            and (heads.stride(1), heads.stride(3)) == (size, 1)
        )

    def _turned(self, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        _, number, tokens, size = heads.shape
        turned = heads.new_empty(1, tokens, number, size)
        self._kernel(
            tokens, heads.data_ptr(), cos.data_ptr(), sin.data_ptr(), turned.data_ptr(),
            number, size, heads.stride(2), number * size, large=turned.numel() >= LARGE,
        )  # fmt: skip
        return turned.transpose(1, 2)


class _Rotations:
    """The rotations of a model's attention."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._tried: dict[Any, _Rotation | None] = {}
        self._turning: dict[FunctionType, FunctionType] = {}

    def forward_of(self, module: nn.Module) -> Callable[..., Any] | None:
        """A module's `forward` with its rotation as a kernel; None if it has none that computes the same."""
        forward = type(module).forward
        if not isinstance(forward, FunctionType) or _ROTATION not in forward.__code__.co_names:
            return None
        plain = forward.__globals__.get(_ROTATION)
        if plain not in self._tried:
            self._tried[plain] = self._try(plain)
        rotation = self._tried[plain]
        if rotation is None:
            return None
        if forward not in self._turning:
            # The name is one of the model's source file: only this model shall find another function behind it.
            names = {**forward.__globals__, _ROTATION: rotation}
            turning = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
            turning.__kwdefaults__ = forward.__kwdefaults__
            self._turning[forward] = turning
        return MethodType(self._turning[forward], module)

    def _try(self, plain: Any) -> _Rotation | None:
        rotation = _Rotation(plain, self._kernels)
        heads = torch.randn(1, 3, 6, 8).to(self._kernels.dtype)
        q, k = heads[:, :, :4].transpose(1, 2), heads[:, :, 4:].transpose(1, 2)
        cos, sin = torch.randn(2, 1, 3, 8).to(self._kernels.dtype)

        def both(rotate: Callable[..., Any]) -> torch.Tensor:
            return torch.cat(rotate(q, k, cos, sin), 1)

        return rotation if _same(partial(both, plain), partial(both, rotation)) else None


def _same(plain: Callable[[], torch.Tensor], fused: Callable[[], torch.Tensor]) -> bool:
    """Whether two functions give the same, but for rounding."""
    try:
        right, result = plain(), fused()
    except Exception:  # the model's own code, given what it may not expect
        return False
    if right.shape != result.shape or right.dtype != result.dtype:
        return False
    tolerance = _ROUNDING[right.dtype] * float(right.abs().max())
    return bool((right - result).abs().max() <= tolerance)

"""Decoder layers as most models have them, with nothing between their matrices but kernels.

A layer of transformers is a tree of modules with dozens of small operations. For one token Python and PyTorch take half
as long for these as the matrices take to be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from acceleration.fused import MOST_ROWS, FusedNorm
from acceleration.merged import LinearPart
from generation.cache import LayerShape
from generation.step import Step

if TYPE_CHECKING:
    from acceleration.kernels import Kernels

_CHILDREN = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


class FusedLayer:
    """The `forward` of a layer: x + attention(norm(x)), and y + feed-forward(norm(y)) of that.

    It goes back to the layer's own for what is no step, or one of many tokens.
    """

    def __init__(
        self, layer: Any, number: int, shape: LayerShape, asked: tuple[int, float, int | None], kernels: Kernels
    ) -> None:
        self._plain = layer.forward
        self._kernels, self._number = kernels, number
        self._heads, self._scale, self._window = asked
        self._key_heads, self._size = shape.heads, shape.key_size
        attention = layer.self_attn
        self._norm: FusedNorm = layer.input_layernorm.forward
        self._next_norm: FusedNorm = layer.post_attention_layernorm.forward
        self._query_norm: FusedNorm | None = _forward(attention, "q_norm")
        self._key_norm: FusedNorm | None = _forward(attention, "k_norm")
        self._project = attention.q_proj.merged.linear.forward
        self._out = attention.o_proj.forward
        self._mlp = layer.mlp.forward

    def __call__(
        self,
        hidden_states: torch.Tensor,
        *positional: Any,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        step: Any = None,
        **others: Any,
    ) -> torch.Tensor:
        """Shape (1, tokens, size)."""
        _, tokens, size = hidden_states.shape
        angles = position_embeddings
        if not isinstance(step, Step) or angles is None or tokens > MOST_ROWS or not self._fits(hidden_states, angles):
            return self._plain(  # type: ignore[no-any-return]
                hidden_states, *positional, position_embeddings=angles, step=step, **others
            )
        norm = self._next_norm
        attended = self._out(self._attended(self._norm(hidden_states), *angles, step))
        normed = torch.empty_like(attended)
        self._kernels.add_rms_norm(
            hidden_states.data_ptr(), attended.data_ptr(), norm.factors.data_ptr(), normed.data_ptr(),
            tokens, size, norm.eps, 0,
        )  # fmt: skip
        output: torch.Tensor = attended + self._mlp(normed)
        return output

    def _fits(self, hidden_states: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> bool:
        shape = (*hidden_states.shape[:2], self._size)
        tensors = hidden_states, *angles
        return all(angle.shape == shape for angle in angles) and all(
            tensor.dtype == self._kernels.dtype and tensor.is_contiguous() for tensor in tensors
        )

    def _attended(self, normed: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, step: Step) -> torch.Tensor:
        """Shape (1, tokens, all heads' values)."""
        heads, key_heads, size = self._heads, self._key_heads, self._size
        projected: torch.Tensor = self._project(normed)[0]
        tokens, distance = projected.shape
        where = projected.data_ptr()
        for head_norm, start, number in ((self._query_norm, 0, heads), (self._key_norm, heads, key_heads)):
            if head_norm is not None:
                numbers = where + start * size * projected.itemsize
                self._kernels.rms_norm(
                    numbers, head_norm.factors.data_ptr(), numbers,
                    tokens, number, size, distance, distance, head_norm.eps, 0,
                )  # fmt: skip
        # Queries and keys stand side by side.
        turned = projected.new_empty(tokens, heads + key_heads, size)
        self._kernels.rotate(
            where, cos.data_ptr(), sin.data_ptr(), turned.data_ptr(),
            tokens, heads + key_heads, size, distance, (heads + key_heads) * size, 0,
        )  # fmt: skip
        query, key = turned[:, :heads], turned[:, heads:]
        values = distance - (heads + key_heads) * size
        value_size = values // key_heads
        value = projected.as_strided(
            (tokens, key_heads, value_size), (distance, value_size, 1), (heads + key_heads) * size
        )
        attended = step.attend_tokens(self._number, query, key, value, self._scale, self._window)
        return attended.view(1, tokens, heads * value_size)


def fused_layers(
    model: nn.Module, shapes: Sequence[LayerShape], asked: Mapping[int, tuple[int, float, int | None]], kernels: Kernels
) -> dict[nn.Module, FusedLayer]:
    """A new `forward` for each layer that looks as if it could have it; whether it computes the same is to be tried."""
    found = {}
    for module in model.modules():
        number = _number(module)
        if number is not None:
            found[module] = FusedLayer(module, number, shapes[number], asked[number], kernels)
    return found


def _number(module: Any) -> int | None:
    """Which layer it is; None if it is none, or another kind."""
    if "forward" in vars(module) or {name for name, _ in module.named_children()} != _CHILDREN:
        return None
    attention = module.self_attn
    parts = {name for name, _ in attention.named_children()}
    norms = [module.input_layernorm, module.post_attention_layernorm]
    norms += [getattr(attention, name) for name in parts - _ATTENTION]
    projections = [getattr(attention, name, None) for name in ("q_proj", "k_proj", "v_proj")]
    if (
        parts - {"q_norm", "k_norm"} != _ATTENTION
        or not all(isinstance(vars(norm).get("forward"), FusedNorm) for norm in norms)
        or not all(isinstance(projection, LinearPart) for projection in projections)
        or "forward" not in vars(attention)
        or len({id(projection.merged) for projection in projections if projection is not None}) != 1
    ):
        return None
    return attention.layer_idx  # type: ignore[no-any-return]


def _forward(module: Any, name: str) -> Any:
    child = getattr(module, name, None)
    return None if child is None else child.forward

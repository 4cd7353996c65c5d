"""A model's attention, taken over through transformers' interface for it.

Source: https://huggingface.co/docs/transformers/attention_interface
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from runners.engines.generate.cache import LayerShape

#: The name under which transformers knows `attend`.
NAME = "sequences"


class UnsupportedAttention(Exception):
    """The model asks more of attention than is computed here."""


class Attention(Protocol):
    """What computes attention in place of a model's layers."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Attention of one layer.

        Args:
            query, key, value: shape (heads, tokens, size); keys and values may have fewer heads.
            window: a token sees no further back, itself included.

        Returns:
            Shape (tokens, heads, value size).
        """
        ...


class Probe:
    """Sees what a model's layers keep of a token, and what they ask for.

    Attributes:
        asked: for each layer its heads, its scale and its window.
    """

    def __init__(self) -> None:
        self.layers: dict[int, LayerShape] = {}
        self.asked: dict[int, tuple[int, float, int | None]] = {}

    @property
    def windows(self) -> bool:
        """Whether a layer has one."""
        return any(window is not None for _, _, window in self.asked.values())

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Note the shapes; attention itself is that of a single prompt."""
        self.layers[layer] = LayerShape(key.shape[0], key.shape[-1], value.shape[-1], key.dtype, key.device)
        self.asked[layer] = query.shape[0], scale, window
        attended = scaled_dot_product_attention(
            query[None], key[None], value[None], is_causal=True, scale=scale, enable_gqa=query.shape[0] != key.shape[0]
        )
        return attended[0].transpose(0, 1)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    step: Attention | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer.

    Args:
        query, key, value: shape (1, heads, tokens, size).

    Raises:
        Unsupported: the layer asks for what is not computed here.
    """
    if step is None:
        raise UnsupportedAttention("the model does not hand on what it is called with")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if others.get(name) is not None:
            raise UnsupportedAttention(f"its attention has {name}")
    if getattr(module, "is_cross_attention", False) or not getattr(module, "is_causal", True):
        raise UnsupportedAttention("its attention is not causal")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended = step.attend(module.layer_idx, query[0], key[0], value[0], scale, sliding_window)
    return attended[None], None


AttentionInterface.register(NAME, attend)

"""Custom attention, registered through transformers' attention interface.

Source: https://huggingface.co/docs/transformers/attention_interface
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from runners.engines.generate.cache import LayerShape

#: Name under which `attend` is registered with transformers.
NAME = "sequences"


class UnsupportedAttention(Exception):
    """Error for a model that needs attention features that are not implemented here."""


class Attention(Protocol):
    """Interface of an object that computes attention in place of a model's layers."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Compute the attention of one layer.

        Args:
            query, key, value: shape (heads, tokens, size); keys and values may have fewer heads.
            window: number of tokens that each token attends to, itself included; None for all before it.

        Returns:
            Shape (tokens, heads, value size).
        """
        ...


class Probe:
    """Recorder of what each layer caches per token and of its attention parameters.

    Attributes:
        layers: for each layer, the shape of its keys and values.
        specs: for each layer, its heads, its scale and its window.
    """

    def __init__(self) -> None:
        self.layers: dict[int, LayerShape] = {}
        self.specs: dict[int, tuple[int, float, int | None]] = {}

    @property
    def has_windows(self) -> bool:
        """True if any layer has a sliding window."""
        return any(window is not None for _, _, window in self.specs.values())

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Record the layer's shapes and compute causal attention over a single prompt."""
        self.layers[layer] = LayerShape(key.shape[0], key.shape[-1], value.shape[-1], key.dtype, key.device)
        self.specs[layer] = query.shape[0], scale, window
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
    """Compute one layer's attention; transformers calls this in each layer.

    Args:
        query, key, value: shape (1, heads, tokens, size).

    Raises:
        UnsupportedAttention: the layer needs a feature that is not implemented here.
    """
    if step is None:
        raise UnsupportedAttention("the model does not pass its arguments on to its attention layers")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if others.get(name) is not None:
            raise UnsupportedAttention(f"its attention has {name}")
    if getattr(module, "is_cross_attention", False) or not getattr(module, "is_causal", True):
        raise UnsupportedAttention("its attention is not causal")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended = step.attend(module.layer_idx, query[0], key[0], value[0], scale, sliding_window)
    return attended[None], None


AttentionInterface.register(NAME, attend)

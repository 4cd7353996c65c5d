"""A batch of texts computed without its padding.

All layers of an encoder but attention compute tokens one by one, so the tokens of all texts may stand in one row, and
only attention must know where one text ends; transformers' attention interface is the place to tell it
(https://huggingface.co/docs/transformers/attention_interface). What is before the layers and behind them keeps the
padded shape, so that every head works as it is.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from runners.kernels.fallbacks import DifferentResults
from runners.kernels.packed import usual_rows
from runners.kernels.rounding import is_rounding

logger = logging.getLogger(__name__)

#: The name under which transformers knows `attend` and `keep_mask`.
NAME = "unpadded"

#: Lengths of the texts that a model is tried with.
_TRIAL = (9, 4, 6)

#: Texts of at most so many tokens: three plain operations in float32 are faster for them than the fused kernel, whose
#: scores fit the cache at any length. 12 heads of 32, one core: a text of 40 tokens 54 against 98 microseconds, in
#: bfloat16 with what is converted 75 against 116; one of 192 tokens 1,681 against 629.
_SHORT = {torch.float32: 96, torch.bfloat16: 48}


class UnsupportedLayers(Exception):
    """The model asks more of attention than is computed here."""


class UnpaddedLayers(nn.Module):
    """Stands in for the module that calls a model's layers, and hands it the tokens of a batch as one row."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **others: Any) -> Any:
        """What the layers give, with zeros for padding.

        Args:
            hidden_states: shape (batch, length, size).
            attention_mask: shape (batch, length), false for padding; None if there is none.
        """
        batch, length = hidden_states.shape[:2]
        padded = hidden_states.flatten(0, 1)
        if attention_mask is None or bool(attention_mask.all()):
            if batch > 1 or usual_rows(length) == length:
                return self.layers(hidden_states, attention_mask=None, **others)
            lengths, tokens = [length], None
        else:
            lengths, tokens = attention_mask.sum(1).tolist(), attention_mask.flatten().nonzero().squeeze(1)
        row = padded if tokens is None else padded[tokens]
        # A few rows of nothing make a number of rows that is computed with anyway.
        row = pad(row, (0, 0, 0, usual_rows(len(row)) - len(row)))
        output = self.layers(row[None], attention_mask=None, text_lengths=lengths, **others)
        computed = output[0][0, : sum(lengths)]
        if tokens is not None:
            computed = computed.new_zeros(len(padded), computed.shape[-1]).index_copy_(0, tokens, computed)
        output.last_hidden_state = computed.unflatten(0, (batch, length))
        return output


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    text_lengths: list[int] | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer.

    Args:
        query, key, value: shape (1, heads, tokens, size), texts one after the other, then perhaps rows of nothing;
            without `text_lengths`, shape (batch, heads, length, size), texts of equal length.

    Raises:
        Unsupported: the layer asks for what is not computed here.
    """
    for name in ("softcap", "s_aux", "position_bias", "head_mask", "sliding_window"):
        if others.get(name) is not None:
            raise UnsupportedLayers(f"its attention has {name}")
    if attention_mask is not None:
        raise UnsupportedLayers("its layers have a mask of their own")
    causal = bool(getattr(module, "is_causal", False))
    if text_lengths is None:
        return _attend(query, key, value, scaling, causal).transpose(1, 2), None
    attended = value.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1])
    start = 0
    for length in text_lengths:
        text = slice(start, start + length)
        q, k, v = query[:, :, text], key[:, :, text], value[:, :, text]
        attended[:, text] = _attend(q, k, v, scaling, causal).transpose(1, 2)
        start += length
    return attended, None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, causal: bool
) -> torch.Tensor:
    """Shapes (batch, heads, length, size): texts that see nothing but themselves."""
    short = query.shape[2] <= _SHORT.get(query.dtype, 0) and key.shape == query.shape
    if causal or not short:
        return scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scaling)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (states.flatten(0, 1).float() for states in (query, key, value))
    weights = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale).softmax(-1)
    return torch.bmm(weights, v).view(query.shape).to(query.dtype)


def keep_mask(*, attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor | None:
    """The mask as the layers get it: as the tokenizer made it, shape (batch, length)."""
    return attention_mask


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, keep_mask)


@torch.inference_mode()
def without_padding(model: PreTrainedModel) -> bool:
    """Have a model compute batches without their padding, if its results stay what they are.

    Padding must be on the right.

    Returns:
        Whether it does. If not, it asks for attention that is not computed here, and is as it was.

    Raises:
        Exception: this way it gives other results (`DifferentResults`), or none; the model is as it was.
    """
    found = _layers(model)
    if found is None or not getattr(model, "_supports_attention_backend", False):
        return False
    parent, name, layers = found
    previous = model.config._attn_implementation
    try:
        expected = outputs(model)
    except Exception:
        # Some classifiers take no batch without a padding token in their config.
        logger.debug("padding is computed: the model does not compute a plain batch", exc_info=True)
        return False
    try:
        setattr(parent, name, UnpaddedLayers(layers))
        model.set_attn_implementation(NAME)
        compare(outputs(model), expected, model.dtype)
    except Exception as error:
        setattr(parent, name, layers)
        model.set_attn_implementation(previous)
        if not isinstance(error, UnsupportedLayers):
            raise
        logger.debug("padding is computed: %s", error)
        return False
    return True


def _layers(model: PreTrainedModel) -> tuple[nn.Module, str, nn.Module] | None:
    """The module that does nothing but call the layers one after the other, with its parent and its name there."""
    number = getattr(model.config, "num_hidden_layers", None)
    for parent in model.modules():
        for name, child in parent.named_children():
            lists = [part for part in child.children() if isinstance(part, nn.ModuleList)]
            if not isinstance(child, PreTrainedModel) and any(len(part) == number for part in lists):
                return parent, name, child
    return None


def outputs(model: Any) -> list[torch.Tensor]:
    """The first output for each of a batch of texts, and for the first of them alone."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.zeros(len(_TRIAL), max(_TRIAL), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(_TRIAL):
        ids[row, :length] = torch.arange(5 + row, 5 + row + length) % vocabulary
        mask[row, :length] = 1
    batch = model(input_ids=ids, attention_mask=mask)[0]
    alone = model(input_ids=ids[:1], attention_mask=mask[:1])[0]
    # Only outputs of tokens have padding.
    rows = [row[:length] if row.shape[0] == max(_TRIAL) else row for row, length in zip(batch, _TRIAL, strict=True)]
    return [*rows, alone]


def compare(
    computed: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype, *, int8: bool = False
) -> None:
    """Compare outputs, each by itself.

    Raises:
        DifferentResults: they differ by more than rounding.
    """
    pairs = zip(computed, expected, strict=True)
    if not all(is_rounding([output], [right], dtype, int8=int8) for output, right in pairs):
        raise DifferentResults

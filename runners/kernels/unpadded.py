"""Compute batches of an encoder without their padding.

All layers of an encoder except attention compute each token by itself, so the tokens of all sequences are concatenated
into one row. Only attention needs the lengths of the sequences, which transformers' attention interface passes on
(https://huggingface.co/docs/transformers/attention_interface). Modules before and after the layers see the padded
shape, so every head works unchanged.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from runners.kernels.fallbacks import DifferentResults
from runners.kernels.packed import round_up_rows
from runners.kernels.rounding import is_within_rounding

logger = logging.getLogger(__name__)

#: Name under which `attend_unpadded` and `return_mask` are registered in transformers.
ATTENTION_NAME = "unpadded"

#: Lengths of the sequences in the trial batch.
_TRIAL_LENGTHS = (9, 4, 6)

#: Longest sequence, in tokens, for which three plain operations in float32 are faster than PyTorch's fused attention:
#: 40 tokens with 12 heads of 32 take 54 against 98 microseconds on one core, and 192 tokens 1,681 against 629.
_MAX_PLAIN_LENGTH = {torch.float32: 96, torch.bfloat16: 48}


class UnsupportedLayers(Exception):
    """Error of a model whose attention has a feature that is not supported here."""


class UnpaddedLayers(nn.Module):
    """Replacement for the module that calls a model's layers.

    It passes a batch's tokens to them as one row.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **others: Any) -> Any:
        """Compute the layers without padding, and return their output with zeros for padding.

        Args:
            hidden_states: shape (batch, length, size).
            attention_mask: shape (batch, length), false for padding; None if there is no padding.
        """
        batch, length = hidden_states.shape[:2]
        padded = hidden_states.flatten(0, 1)
        if attention_mask is None or bool(attention_mask.all()):
            if batch > 1 or round_up_rows(length) == length:
                return self.layers(hidden_states, attention_mask=None, **others)
            lengths, tokens = [length], None
        else:
            lengths, tokens = attention_mask.sum(1).tolist(), attention_mask.flatten().nonzero().squeeze(1)
        row = padded if tokens is None else padded[tokens]
        # Rows of zeros round the number of rows up to a size that the kernels have seen before.
        row = pad(row, (0, 0, 0, round_up_rows(len(row)) - len(row)))
        output = self.layers(row[None], attention_mask=None, unpadded_lengths=lengths, **others)
        computed = output[0][0, : sum(lengths)]
        if tokens is not None:
            computed = computed.new_zeros(len(padded), computed.shape[-1]).index_copy_(0, tokens, computed)
        output.last_hidden_state = computed.unflatten(0, (batch, length))
        return output


def attend_unpadded(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    unpadded_lengths: list[int] | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention of one layer; transformers calls it.

    Args:
        query, key, value: shape (1, heads, tokens, size), sequences one after the other, then optional rows of zeros;
            without `unpadded_lengths`, shape (batch, heads, length, size), sequences of equal length.
        unpadded_lengths: tokens of each sequence.

    Raises:
        UnsupportedLayers: the layer's attention has a feature that is not supported here.
    """
    for name in ("softcap", "s_aux", "position_bias", "head_mask", "sliding_window"):
        if others.get(name) is not None:
            raise UnsupportedLayers(f"its attention has {name}")
    if attention_mask is not None:
        raise UnsupportedLayers("its layers have a mask of their own")
    causal = bool(getattr(module, "is_causal", False))
    if unpadded_lengths is None:
        return _attend_sequences(query, key, value, scaling, causal).transpose(1, 2), None
    attended = value.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1])
    start = 0
    for length in unpadded_lengths:
        sequence = slice(start, start + length)
        q, k, v = query[:, :, sequence], key[:, :, sequence], value[:, :, sequence]
        attended[:, sequence] = _attend_sequences(q, k, v, scaling, causal).transpose(1, 2)
        start += length
    return attended, None


def _attend_sequences(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, causal: bool
) -> torch.Tensor:
    """Compute attention within each sequence; shapes (batch, heads, length, size)."""
    short = query.shape[2] <= _MAX_PLAIN_LENGTH.get(query.dtype, 0) and key.shape == query.shape
    if causal or not short:
        return scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scaling)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (states.flatten(0, 1).float() for states in (query, key, value))
    weights = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale).softmax(-1)
    return torch.bmm(weights, v).view(query.shape).to(query.dtype)


def return_mask(*, attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor | None:
    """Return the tokenizer's mask of shape (batch, length) unchanged.

    transformers calls it, and passes the result to the layers.
    """
    return attention_mask


AttentionInterface.register(ATTENTION_NAME, attend_unpadded)
AttentionMaskInterface.register(ATTENTION_NAME, return_mask)


@torch.inference_mode()
def install_unpadded(model: PreTrainedModel) -> bool:
    """Make a model compute batches without padding, and verify its results.

    Padding must be on the right.

    Returns:
        Whether it does. If not, its layers or their attention are not supported, and the model is unchanged.

    Raises:
        Exception: the model fails or computes other results without padding (`DifferentResults`). It is unchanged.
    """
    found = _find_layers(model)
    if found is None or not getattr(model, "_supports_attention_backend", False):
        return False
    parent, name, layers = found
    previous = model.config._attn_implementation
    try:
        expected = compute_trial_outputs(model)
    except Exception:
        # Some classifiers accept no batch if their config has no padding token.
        logger.debug("Batches are computed with padding: the model fails on a padded trial batch", exc_info=True)
        return False
    try:
        setattr(parent, name, UnpaddedLayers(layers))
        model.set_attn_implementation(ATTENTION_NAME)
        compare_outputs(compute_trial_outputs(model), expected, model.dtype)
    except Exception as error:
        setattr(parent, name, layers)
        model.set_attn_implementation(previous)
        if not isinstance(error, UnsupportedLayers):
            raise
        logger.debug("Batches are computed with padding: %s", error)
        return False
    return True


def _find_layers(model: PreTrainedModel) -> tuple[nn.Module, str, nn.Module] | None:
    """Find the module that only calls the layers in order.

    Returns:
        Its parent, its name in the parent, and the module; None if there is none.
    """
    number = getattr(model.config, "num_hidden_layers", None)
    for parent in model.modules():
        for name, child in parent.named_children():
            lists = [part for part in child.children() if isinstance(part, nn.ModuleList)]
            if not isinstance(child, PreTrainedModel) and any(len(part) == number for part in lists):
                return parent, name, child
    return None


def compute_trial_outputs(model: Any) -> list[torch.Tensor]:
    """Run a trial batch, and return the first output of each sequence.

    The last element is the output for the first sequence in a batch of its own.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.zeros(len(_TRIAL_LENGTHS), max(_TRIAL_LENGTHS), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(_TRIAL_LENGTHS):
        ids[row, :length] = torch.arange(5 + row, 5 + row + length) % vocabulary
        mask[row, :length] = 1
    batch = model(input_ids=ids, attention_mask=mask)[0]
    alone = model(input_ids=ids[:1], attention_mask=mask[:1])[0]
    # Only outputs per token have padding.
    rows = [
        row[:length] if row.shape[0] == max(_TRIAL_LENGTHS) else row
        for row, length in zip(batch, _TRIAL_LENGTHS, strict=True)
    ]
    return [*rows, alone]


def compare_outputs(
    computed: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype, *, int8: bool = False
) -> None:
    """Compare the outputs of each sequence.

    Raises:
        DifferentResults: outputs differ by more than rounding.
    """
    pairs = zip(computed, expected, strict=True)
    if not all(is_within_rounding([output], [target], dtype, int8=int8) for output, target in pairs):
        raise DifferentResults

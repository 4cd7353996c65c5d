"""Find how many tokens a model accepts and generates.

The number of its positions decides, else the limit of its tokenizer.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

#: Tokenizers without a limit report a number like 1e30.
_NO_LIMIT = 10**9


def find_input_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, wanted: int | None) -> int | None:
    """Return the number of input tokens that the model accepts; None if there is no limit.

    Special tokens count. The positions are always a limit. The tokenizer's limit is only a default, because a model
    without absolute positions, such as T5, accepts more.

    Args:
        wanted: the operator's choice, MAX_MODEL_LEN.
    """
    limits = [wanted or tokenizer.model_max_length]
    encoder_limit = _count_encoder_positions(model)
    if encoder_limit is not None:
        limits.append(encoder_limit)
    if _decoder_gets_input(model) and (decoder_limit := find_output_limit(model)) is not None:
        limits.append(decoder_limit)
    smallest = min(limits)
    return smallest if smallest < _NO_LIMIT else None


def find_output_limit(model: PreTrainedModel) -> int | None:
    """Return the number of tokens that an encoder-decoder model's decoder accepts.

    The start token counts. None if there is no limit.
    """
    config = _select_config(model.config, "decoder")
    positions = _find_first_positive(
        config, "max_decoder_position_embeddings", "max_position_embeddings", "max_target_positions"
    )
    if positions is None or _has_only_relative_positions(config):
        return None
    # ProphetNet's decoder looks one position ahead.
    ahead = 1 if getattr(config, "ngram", None) is not None else 0
    return positions - _count_reserved_positions(_select_module(model, "decoder"), positions) - ahead


def _count_encoder_positions(model: PreTrainedModel) -> int | None:
    config = _select_config(model.config, "encoder")
    positions = _find_first_positive(
        config, "max_encoder_position_embeddings", "max_position_embeddings", "max_source_positions"
    )
    if positions is None or _has_only_relative_positions(config):
        return None
    if hasattr(config, "max_encoder_position_embeddings") and hasattr(config, "attention_window"):
        # LED pads inputs to whole windows, and the padding needs positions too.
        window = config.attention_window if isinstance(config.attention_window, int) else max(config.attention_window)
        positions = positions // window * window or positions
    return positions - _count_reserved_positions(_select_module(model, "encoder"), positions)


def _has_only_relative_positions(config: PreTrainedConfig) -> bool:
    """Return True if `max_position_embeddings` is no limit, because all positions are relative.

    Other models with rotary positions are not recognized: their inputs should not be longer than those in training.
    """
    # DeBERTa's option, then ESM's.
    return getattr(config, "position_biased_input", True) is False or (
        getattr(config, "position_embedding_type", None) == "rotary"
    )


def _decoder_gets_input(model: PreTrainedModel) -> bool:
    """Return True for a BART-like classifier: its decoder gets the same tokens as its encoder."""
    return bool(model.config.is_encoder_decoder) and "For" in type(model).__name__ and not model.can_generate()


def _select_config(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """Return the nested config of the encoder, the decoder or the text model, if there is one."""
    parts = (getattr(config, each, None) for each in (name, "text_config"))
    return next((part for part in parts if isinstance(part, PreTrainedConfig)), config)


def _select_module(model: PreTrainedModel, name: str) -> torch.nn.Module:
    """Return the encoder or the decoder of a model that has both, else the model itself."""
    for owner in (model, model.base_model) if model.config.is_encoder_decoder else ():
        if isinstance(part := getattr(owner, name, None), torch.nn.Module):
            return part
    return model


def _find_first_positive(config: PreTrainedConfig, *names: str) -> int | None:
    values: list[Any] = [getattr(config, name, None) for name in names]
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _count_reserved_positions(model: torch.nn.Module, positions: int) -> int:
    """Return how many positions inputs cannot use.

    RoBERTa-like models start counting after the padding index.
    """
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and isinstance(module, torch.nn.Embedding)
            and module.num_embeddings == positions
            and module.padding_idx is not None
        ):
            return module.padding_idx + 1
    return 0

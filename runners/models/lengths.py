"""Find how many tokens a model reads and generates: by its positions, else by its tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

#: Tokenizers without a limit of their own say a number like 1e30.
_NO_LIMIT = 10**9


def reading_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, wanted: int | None) -> int | None:
    """Tokens of a text that the model reads, special tokens included; None if nothing bounds them.

    Positions bound them whatever is wanted. The tokenizer's number is a default, as a model without positions of its
    own, such as T5, reads more.

    Args:
        wanted: the operator's choice, MAX_MODEL_LEN.
    """
    limits = [wanted or tokenizer.model_max_length]
    encoder = _encoder_positions(model)
    if encoder is not None:
        limits.append(encoder)
    if _decoder_reads_the_text(model) and (decoder := writing_limit(model)) is not None:
        limits.append(decoder)
    smallest = min(limits)
    return smallest if smallest < _NO_LIMIT else None


def writing_limit(model: PreTrainedModel) -> int | None:
    """Tokens that the decoder of an encoder-decoder model reads, its start included; None if nothing bounds them."""
    config = _part_of_config(model.config, "decoder")
    positions = _first(config, "max_decoder_position_embeddings", "max_position_embeddings", "max_target_positions")
    if positions is None or _is_relative(config):
        return None
    # ProphetNet's decoder looks one position ahead.
    ahead = 1 if getattr(config, "ngram", None) is not None else 0
    return positions - _reserved_positions(_part(model, "decoder"), positions) - ahead


def _encoder_positions(model: PreTrainedModel) -> int | None:
    config = _part_of_config(model.config, "encoder")
    positions = _first(config, "max_encoder_position_embeddings", "max_position_embeddings", "max_source_positions")
    if positions is None or _is_relative(config):
        return None
    if hasattr(config, "max_encoder_position_embeddings") and hasattr(config, "attention_window"):
        # LED fills texts up to whole windows, and all of that has positions.
        window = config.attention_window if isinstance(config.attention_window, int) else max(config.attention_window)
        positions = positions // window * window or positions
    return positions - _reserved_positions(_part(model, "encoder"), positions)


def _is_relative(config: PreTrainedConfig) -> bool:
    """Return whether positions are relative alone, so that `max_position_embeddings` bounds nothing.

    Keys that are rotated are told in other ways, and no text should be longer than those that the model has learned.
    """
    # DeBERTa's and ESM's words for it.
    return getattr(config, "position_biased_input", True) is False or (
        getattr(config, "position_embedding_type", None) == "rotary"
    )


def _decoder_reads_the_text(model: PreTrainedModel) -> bool:
    """Return whether it is a BART-like model with a head other than for text: decoder and encoder read the same."""
    return bool(model.config.is_encoder_decoder) and "For" in type(model).__name__ and not model.can_generate()


def _part_of_config(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """The config of the encoder or the decoder, or of what reads text, where they are models of their own."""
    parts = (getattr(config, each, None) for each in (name, "text_config"))
    return next((part for part in parts if isinstance(part, PreTrainedConfig)), config)


def _part(model: PreTrainedModel, name: str) -> torch.nn.Module:
    """The encoder or the decoder of a model that has both; else the model itself."""
    for owner in (model, model.base_model) if model.config.is_encoder_decoder else ():
        if isinstance(part := getattr(owner, name, None), torch.nn.Module):
            return part
    return model


def _first(config: PreTrainedConfig, *names: str) -> int | None:
    values: list[Any] = [getattr(config, name, None) for name in names]
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _reserved_positions(model: torch.nn.Module, positions: int) -> int:
    """RoBERTa and its kin count positions from behind the padding index, so their last ones cannot be reached."""
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and isinstance(module, torch.nn.Embedding)
            and module.num_embeddings == positions
            and module.padding_idx is not None
        ):
            return module.padding_idx + 1
    return 0

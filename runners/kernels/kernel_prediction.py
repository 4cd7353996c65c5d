"""Predict the kernels of a model, to compile them while the model is loaded.

This module does not import PyTorch, because the import takes longer than compiling some kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runners.kernels.host_cpu import has_feature, supports_tiles
from runners.kernels.kernel_source import (
    FLOAT32_LAYER,
    INT8_LAYER,
    RUN_CALLS,
    KernelSource,
    get_decode_attention_source,
    get_layer_source,
    get_sequence_attention_source,
)
from runners.kernels.layout import fits_registers


def predict_sources(
    config: Mapping[str, Any], dtype: str, *, reads_batches: bool, int8: bool = False
) -> list[KernelSource]:
    """Return the sources of the kernels that a model probably needs.

    Args:
        config: the checkpoint's config; empty if it is not known.
        dtype: name of the type that the model will compute in, such as `float32`.
        reads_batches: the model is an encoder, not a generative model.
        int8: linear layers will be computed in int8.
    """
    in_float32 = dtype == "float32" and supports_tiles()
    if dtype not in ("float32", "bfloat16") or (reads_batches and not in_float32):
        return []
    names = (
        ("add_layer_norm", "gelu") if reads_batches else ("rms_norm", "add_rms_norm", "rotate", "copy_to_slots", "gate")
    )
    sources = [get_layer_source(name, dtype) for name in names]
    if in_float32:
        sources += [RUN_CALLS, FLOAT32_LAYER]
    if int8 and has_feature("avx512vnni"):
        sources += INT8_LAYER
    return sources + _predict_attention(config, dtype, reads_batches)


def _predict_attention(config: Mapping[str, Any], dtype: str, reads_batches: bool) -> list[KernelSource]:
    heads = _find_integer(config, "num_attention_heads", "n_heads", "n_head")
    width = _find_integer(config, "hidden_size", "dim", "n_embd")
    if not heads or not width:
        return []
    size = _find_integer(config, "head_dim") or width // heads
    whole_sequences = (
        [get_sequence_attention_source(size, size, dtype)] if supports_tiles() and fits_registers(size) else []
    )
    shared = heads // (_find_integer(config, "num_key_value_heads") or heads)
    return (
        whole_sequences if reads_batches else [get_decode_attention_source(size, size, shared, dtype), *whole_sequences]
    )


def _find_integer(config: Mapping[str, Any], *names: str) -> int:
    """Return the first integer with one of these names, or 0."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)

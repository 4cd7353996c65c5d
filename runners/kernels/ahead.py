"""Kernels that a model will likely ask for, so that they are compiled while it is loaded.

Nothing here needs PyTorch, whose import takes longer than to compile some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runners.kernels.host_cpu import compiles_for, computes_tiles
from runners.kernels.layout import fill_registers
from runners.kernels.source import (
    FLOAT32_MULTIPLY,
    INT8,
    MKL,
    RUN,
    KernelSource,
    layer_kernel,
    step_attention,
    text_attention,
)


def likely_sources(
    config: Mapping[str, Any], dtype: str, *, reads_batches: bool, int8: bool = False
) -> list[KernelSource]:
    """What such a model's kernels are compiled from.

    Args:
        config: that of the checkpoint; empty if it is not known.
        dtype: in which the model will compute, as PyTorch calls it.
        reads_batches: it is no model that writes token by token.
        int8: its layers will compute in eight bits.
    """
    in_float32 = dtype == "float32" and computes_tiles()
    if dtype not in ("float32", "bfloat16") or (reads_batches and not in_float32):
        return []
    names = ("add_layer_norm", "gelu") if reads_batches else ("rms_norm", "add_rms_norm", "rotate", "keep", "gate")
    sources = [layer_kernel(name, dtype) for name in names]
    if in_float32:
        sources += [RUN, FLOAT32_MULTIPLY, *MKL]
    if int8 and compiles_for("avx512vnni"):
        sources += INT8
    return sources + _attention(config, dtype, reads_batches)


def _attention(config: Mapping[str, Any], dtype: str, reads_batches: bool) -> list[KernelSource]:
    heads = _number(config, "num_attention_heads", "n_heads", "n_head")
    width = _number(config, "hidden_size", "dim", "n_embd")
    if not heads or not width:
        return []
    size = _number(config, "head_dim") or width // heads
    texts = [text_attention(size, size, dtype)] if computes_tiles() and fill_registers(size) else []
    shared = heads // (_number(config, "num_key_value_heads") or heads)
    return texts if reads_batches else [step_attention(size, size, shared, dtype), *texts]


def _number(config: Mapping[str, Any], *names: str) -> int:
    """The first of these that is there; 0 if none is."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)

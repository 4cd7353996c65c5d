"""Kernels that a model will likely ask for, so that they are compiled while it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from acceleration.attention_kernels import AttentionKernels
from acceleration.compiler import Source
from acceleration.float32_kernels import Float32Kernels
from acceleration.kernels import Kernels
from acceleration.mkl import mkl
from acceleration.mkl_kernels import MklKernels
from acceleration.program import Runner


def likely_sources(config: Mapping[str, Any], dtype: Any, *, reads_batches: bool) -> list[list[Source]]:
    """Sources in groups, each for a process of its own; attention takes as long to compile as all others together.

    Args:
        config: that of the checkpoint; empty if it is not known.
        dtype: in which the model will compute.
        reads_batches: it is no model that writes token by token.
    """
    if not isinstance(dtype, torch.dtype) or not Kernels.compute(dtype):
        return []
    in_float32 = dtype == torch.float32 and Float32Kernels.compute()
    if reads_batches and not in_float32:
        return []
    names = ("add_layer_norm", "gelu") if reads_batches else ("rms_norm", "add_rms_norm", "rotate", "keep", "gate")
    plain = [Kernels.source(name, dtype) for name in names]
    if in_float32:
        plain += [Runner.SOURCE, Float32Kernels.SOURCE, *(MklKernels.SOURCES if mkl() is not None else ())]
    return [plain, _attention(config, dtype, reads_batches)]


def _attention(config: Mapping[str, Any], dtype: torch.dtype, reads_batches: bool) -> list[Source]:
    heads = _number(config, "num_attention_heads", "n_heads", "n_head")
    width = _number(config, "hidden_size", "dim", "n_embd")
    if not heads or not width:
        return []
    size = _number(config, "head_dim") or width // heads
    by_tiles = AttentionKernels.compute() and AttentionKernels.fit(size, size)
    texts = [AttentionKernels.source(size, size, dtype)] if by_tiles else []
    shared = heads // (_number(config, "num_key_value_heads") or heads)
    return texts if reads_batches else [Kernels.attend_source(size, size, shared, dtype), *texts]


def _number(config: Mapping[str, Any], *names: str) -> int:
    """The first of these that is there; 0 if none is."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)

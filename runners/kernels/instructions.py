"""What the CPU has instructions for."""

from __future__ import annotations

import platform
from typing import Any

import torch

_CPU: Any = torch.cpu


def has_onednn() -> bool:
    """Whether this PyTorch has oneDNN's kernels."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def has_avx2() -> bool:
    """Whether the CPU has registers of 32 bytes, which kernels of our own need to multiply."""
    return bool(_CPU._is_avx2_supported())


def computes_int8() -> bool:
    """Whether the CPU multiplies eight bits without cutting off sums (VNNI)."""
    return has_onednn() and bool(_CPU._is_vnni_supported())


def computes_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16."""
    if not has_onednn() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # There, oneDNN calls it supported wherever it can be imitated in float32, which is slower than float32.
    return bool(_CPU._is_avx512_bf16_supported() or _CPU._is_amx_tile_supported())

"""Instruction sets of the CPU that PyTorch can use."""

from __future__ import annotations

import platform
from typing import Any

import torch

_CPU: Any = torch.cpu


def has_onednn() -> bool:
    """Return whether this PyTorch has oneDNN's kernels."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def supports_int8() -> bool:
    """Return whether the CPU multiplies int8 without saturating sums (VNNI)."""
    return has_onednn() and bool(_CPU._is_vnni_supported())


def supports_bfloat16() -> bool:
    """Return whether the CPU multiplies in bfloat16."""
    if not has_onednn() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # On x86, oneDNN also reports support if it emulates bfloat16 in float32, which is slower than float32.
    return bool(_CPU._is_avx512_bf16_supported() or _CPU._is_amx_tile_supported())

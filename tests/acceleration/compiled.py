"""Kernels, compiled once for all tests of a process."""

from __future__ import annotations

from functools import cache

import torch

from acceleration.kernels import Kernels
from settings import ModelSettings


@cache
def kernels_of(dtype: torch.dtype) -> Kernels:
    """Kept where those of served models are, so that they are compiled once on a machine."""
    folder = ModelSettings.model_fields["storage_cache"].default
    return Kernels(dtype, folder.expanduser() / "kernels")

"""Kernels, compiled once for all tests of a process."""

from __future__ import annotations

from functools import cache

import torch

from hf_runtime.settings import ModelSettings
from runners.kernels.compiler import Compiler
from runners.kernels.float32_kernels import Float32Kernels
from runners.kernels.int8_kernels import Int8Kernels
from runners.kernels.kernels import Kernels

#: That of served models, so that kernels are compiled once on a machine.
FOLDER = ModelSettings.model_fields["storage_cache"].default.expanduser() / "kernels"

COMPILER = Compiler(FOLDER)


@cache
def kernels_of(dtype: torch.dtype) -> Kernels:
    """Kernels for numbers of a type."""
    return Kernels(dtype, COMPILER)


@cache
def float32_kernels() -> Float32Kernels:
    """Kernels for layers of float32."""
    return Float32Kernels(COMPILER)


@cache
def int8_kernels() -> Int8Kernels:
    """Kernels for layers of eight bits."""
    return Int8Kernels(COMPILER)

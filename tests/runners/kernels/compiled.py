"""Kernels, compiled once for all tests of a process."""

from __future__ import annotations

from functools import cache

import torch

from hf_runtime.settings import ModelSettings
from runners.kernels.compiler import Compiler
from runners.kernels.float32_kernels import Float32Kernels
from runners.kernels.int8_kernels import Int8Kernels
from runners.kernels.kernels import Kernels

#: The default folder of served models, so that kernels are compiled once on a machine.
FOLDER = ModelSettings.model_fields["storage_cache"].default.expanduser() / "kernels"

COMPILER = Compiler(FOLDER)


@cache
def get_kernels(dtype: torch.dtype) -> Kernels:
    """Return the kernels for values of a type."""
    return Kernels(dtype, COMPILER)


@cache
def get_float32_kernels() -> Float32Kernels:
    """Return the kernels for float32 layers."""
    return Float32Kernels(COMPILER)


@cache
def get_int8_kernels() -> Int8Kernels:
    """Return the kernels for int8 layers."""
    return Int8Kernels(COMPILER)

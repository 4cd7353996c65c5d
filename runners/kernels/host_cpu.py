"""Name and features of the CPU in LLVM's format."""

from __future__ import annotations

from functools import cache

from llvmlite import binding


@cache
def get_name_and_features() -> tuple[str, str]:
    """Return the CPU's name and features as arguments for LLVM."""
    return binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()


@cache
def has_feature(feature: str) -> bool:
    """Return whether the CPU has a feature and LLVM knows it."""
    return bool(binding.get_host_cpu_features().get(feature))


def supports_tiles() -> bool:
    """Return whether the CPU has AVX2 and FMA, which float32 tiles need."""
    return has_feature("avx2") and has_feature("fma")

"""The processor as LLVM sees it, which compiles for it."""

from __future__ import annotations

from functools import cache

from llvmlite import binding


@cache
def name_and_features() -> tuple[str, str]:
    """What it is called, and what it has or has not, as LLVM is told."""
    return binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()


@cache
def compiles_for(feature: str) -> bool:
    """Whether LLVM knows of a feature that the processor has."""
    return bool(binding.get_host_cpu_features().get(feature))


def computes_tiles() -> bool:
    """Whether the processor has what products in float32 are made of: registers of 32 or 64 bytes, and fused sums."""
    return compiles_for("avx2") and compiles_for("fma")

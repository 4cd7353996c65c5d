"""Replacement of the features that LLVM detects: AVX2 and nothing newer."""

from __future__ import annotations

from typing import Any

from llvmlite import binding

#: Features that no processor with AVX2 only has.
_NEWER = ("avx512", "evex512", "avx10", "amx", "avxvnni", "avxifma", "avxneconvert")

_all_features = binding.get_host_cpu_features


def _features() -> Any:
    features = _all_features()
    for name in features:
        if name.startswith(_NEWER):
            features[name] = False
    return features


def _name() -> str:
    return "haswell"


binding.get_host_cpu_features = _features
binding.get_host_cpu_name = _name

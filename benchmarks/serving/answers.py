"""Differences between the answers of a server and those of plain transformers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np


def compared(workload: str, expected: Sequence[Any], answers: Sequence[Any]) -> dict[str, float]:
    """Compute figures of the differences.

    Args:
        expected, answers: as `Peer.check` returns them; text by text.
    """
    return {"texts": len(expected), **_COMPARISONS[workload](expected, answers)}


def in_short(workload: str, figures: dict[str, float]) -> str:
    """Format the figures in a few words."""
    match workload:
        case "classification":
            return f"scores ± {figures['max_difference']:.1g}"
        case "embedding":
            return f"cosine ≥ {figures['min_cosine']:.5f}"
        case _:
            return f"{figures['equal']:.0%} the same"


def _classification(expected: Sequence[Any], answers: Sequence[Any]) -> dict[str, float]:
    """Compare the probability of the expected one of two labels."""
    equal = [label == wanted for (wanted, _), (label, _) in zip(expected, answers, strict=True)]
    differences = [
        abs(wanted - (score if same else 1 - score))
        for (_, wanted), (_, score), same in zip(expected, answers, equal, strict=True)
    ]
    return {"equal_labels": mean(equal), "max_difference": max(differences), "mean_difference": mean(differences)}


def _embedding(expected: Sequence[Any], answers: Sequence[Any]) -> dict[str, float]:
    """Compare vectors after normalization, because some servers leave that to their clients."""
    one, other = (_normalized(vectors) for vectors in (expected, answers))
    cosines = (one * other).sum(-1)
    return {
        "max_difference": float(np.abs(one - other).max()),
        "min_cosine": float(cosines.min()),
        "mean_cosine": float(cosines.mean()),
    }


def _generation(expected: Sequence[Any], answers: Sequence[Any]) -> dict[str, float]:
    return {"equal": mean(wanted == text for (wanted, _), (text, _) in zip(expected, answers, strict=True))}


def _normalized(vectors: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.asarray(vectors, np.float64)
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True), np.float64)


_COMPARISONS = {"classification": _classification, "embedding": _embedding, "generation": _generation}

"""What a runner tells Prometheus; the entry service's `/metrics` shows it with its own."""

from __future__ import annotations

from functools import cache
from typing import Any

_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_NEXT_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)


class GenerationLatency:
    """Time to the first token of each sequence, from its arrival at the runner, and from token to token."""

    def __init__(self, model_name: str) -> None:
        first, following = _histograms()
        self._first = first.labels(model_name=model_name)
        self._following = following.labels(model_name=model_name)

    def first_token(self, seconds: float) -> None:
        """Observe the time from an item's arrival to the first token of one of its sequences."""
        self._first.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """Observe the time between two tokens of a sequence."""
        self._following.observe(seconds)


@cache
def _histograms() -> tuple[Any, Any]:
    # Imported late: BentoML says where metrics of several processes gather only once a process has started.
    from prometheus_client import Histogram

    return (
        Histogram(
            "time_to_first_token_seconds",
            "From the arrival of a prompt to the first token of its answer.",
            ["model_name"],
            buckets=_FIRST_TOKEN_SECONDS,
        ),
        Histogram(
            "inter_token_latency_seconds",
            "Between two tokens of an answer.",
            ["model_name"],
            buckets=_NEXT_TOKEN_SECONDS,
        ),
    )

"""Prometheus metrics of a runner, which `/metrics` of the entry service includes."""

from __future__ import annotations

from collections.abc import Container, Iterable
from functools import cache
from types import SimpleNamespace
from typing import Any

from hf_runtime.observability.engine_observer import EngineObserver

_WAIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_NEXT_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)
_BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_BATCH_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class ModelMetrics(EngineObserver):
    """Metrics of one runner, which its engine and its host report.

    Counters and histograms of a model's replicas are summed. Gauges have a label for the runner, and the most recent
    process of a runner sets their value, because a process that was killed cannot reset it.
    """

    def __init__(self, model_name: str, runner: str) -> None:
        families = _families()
        self._model_name, self._failures = model_name, families.failures
        self._metrics = SimpleNamespace(
            **{
                name: family.labels(model_name, runner) if name in _GAUGES else family.labels(model_name)
                for name, family in vars(families).items()
                if family is not self._failures
            }
        )
        self.record_ready(False)
        self.record_only_nan(False)
        self.reset_activity()

    def record_waiting(self, items: int) -> None:
        self._metrics.waiting.set(items)

    def record_queue_wait(self, seconds: float) -> None:
        self._metrics.queue.observe(seconds)

    def record_batch(self, rows: int, tokens: int, padding: int) -> None:
        self._metrics.rows.observe(rows)
        self._metrics.tokens.observe(tokens)
        self._metrics.padding.inc(padding)

    def record_prefill(self, tokens: int, cached: int = 0) -> None:
        self._metrics.prompt.inc(tokens)
        self._metrics.cached.inc(cached)

    def record_first_token(self, seconds: float) -> None:
        self._metrics.first.observe(seconds)

    def record_next_token(self, seconds: float) -> None:
        self._metrics.next.observe(seconds)

    def record_generated(self, tokens: int) -> None:
        self._metrics.generated.inc(tokens)

    def record_running(self, sequences: int, cache_usage: float) -> None:
        self._metrics.running.set(sequences)
        self._metrics.cache.set(cache_usage)

    def record_only_nan(self, only: bool) -> None:
        self._metrics.nan.set(only)

    def record_load_time(self, seconds: float) -> None:
        """Record that the model is loaded, `seconds` after loading began."""
        self._metrics.load.set(seconds)

    def record_execution_plan(self, rows: int, tokens: int, workers: int, threads: int | None) -> None:
        """Record the execution plan.

        Args:
            rows: most rows, or sequences, of a batch.
            tokens: most tokens of a batch.
            workers: batches that are computed in parallel.
            threads: CPU threads per batch; None if a library chooses.
        """
        self._metrics.limit_rows.set(rows)
        self._metrics.limit_tokens.set(tokens)
        self._metrics.workers.set(workers)
        self._metrics.threads.set(threads or 0)

    def record_failed_optimizations(self, known: Iterable[str], failed: Container[str]) -> None:
        """Count optimizations that failed while the model was loaded; it is served without them.

        Args:
            known: all optimizations; each one that did not fail is exported as 0.
            failed: the optimizations that failed.
        """
        for name in known:
            self._failures.labels(self._model_name, str(name)).inc(name in failed)

    def reset_activity(self) -> None:
        """Reset the queue and running gauges when no engine exists that would report them."""
        self.record_waiting(0)
        self.record_running(0, 0.0)

    def record_ready(self, ready: bool) -> None:
        """Record whether the model can answer, after a change."""
        self._metrics.ready.set(ready)


_GAUGES = frozenset(
    ("waiting", "running", "cache", "load", "ready", "nan", "limit_rows", "limit_tokens", "workers", "threads")
)


@cache
def _families() -> Any:
    # Imported late: BentoML sets the multiprocess directory of prometheus_client only after a process has started.
    from prometheus_client import Counter, Gauge, Histogram

    def gauge(name: str, help_text: str) -> Gauge:
        return Gauge(name, help_text, ["model_name", "runner"], multiprocess_mode="mostrecent")

    def histogram(name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_text, ["model_name"], buckets=buckets)

    return SimpleNamespace(
        ready=gauge("model_ready", "1 if the runner can answer requests, otherwise 0."),
        nan=gauge(
            "model_only_nan",
            "1 after three batches in a row for which the model computed only NaN, otherwise 0. The weights are "
            "damaged, or values overflow.",
        ),
        load=gauge("model_load_seconds", "Time in seconds to load and warm up the model."),
        limit_rows=gauge(
            "batch_limit_rows",
            "Maximum number of rows, or sequences, in a forward pass. The server measured it, or the operator set it.",
        ),
        limit_tokens=gauge(
            "batch_limit_tokens",
            "Maximum number of tokens in a forward pass. The server measured it, or the operator set it.",
        ),
        workers=gauge("compute_lanes", "Number of workers. Each worker computes one forward pass at a time."),
        threads=gauge("compute_threads", "Number of CPU threads of each worker. 0 if a library chooses the number."),
        waiting=gauge("queue_size", "Number of instances that wait for their first forward pass."),
        queue=histogram(
            "queue_wait_seconds",
            "Time in seconds from the arrival of an instance at the runner to its first forward pass.",
            _WAIT_SECONDS,
        ),
        rows=histogram("batch_rows", "Number of rows, or sequences, in a forward pass.", _BATCH_ROWS),
        tokens=histogram("batch_tokens", "Number of tokens in a forward pass, without padding.", _BATCH_TOKENS),
        padding=Counter(
            "padding_tokens",
            "Number of padding tokens. Together with the sum of batch_tokens, all tokens that were computed.",
            ["model_name"],
        ),
        prompt=Counter("prompt_tokens", "Number of input tokens.", ["model_name"]),
        cached=Counter("cached_prompt_tokens", "Number of input tokens that were in the prefix cache.", ["model_name"]),
        generated=Counter("generated_tokens", "Number of generated tokens.", ["model_name"]),
        failures=Counter(
            "optimization_failures",
            "Number of optimizations that failed while the model was loaded. The model is served without them.",
            ["model_name", "optimization"],
        ),
        running=gauge("running_sequences", "Number of sequences that are being generated."),
        cache=gauge("kv_cache_usage_ratio", "Used share of the KV cache, from 0 to 1."),
        first=histogram(
            "time_to_first_token_seconds",
            "Time in seconds from the arrival of a prompt to the first generated token.",
            _FIRST_TOKEN_SECONDS,
        ),
        next=histogram(
            "inter_token_latency_seconds", "Time in seconds between two tokens of an answer.", _NEXT_TOKEN_SECONDS
        ),
    )

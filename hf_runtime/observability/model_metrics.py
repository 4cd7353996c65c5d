"""What a runner tells Prometheus; the entry service's `/metrics` shows it with its own."""

from __future__ import annotations

from collections.abc import Container, Iterable
from functools import cache
from types import SimpleNamespace
from typing import Any

_WAIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_NEXT_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)
_BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_BATCH_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class ModelMetrics:
    """Counts what one runner does, as an `EngineObserver` and for its host.

    Counters and histograms of replicas of a model add up. Gauges are told apart by their runner, and the last process
    of a runner is the one that counts: one that was killed cannot take its value back.
    """

    def __init__(self, model_name: str, runner: str) -> None:
        families = _families()
        self._model_name, self._failures = model_name, families.failures
        self._of = SimpleNamespace(
            **{
                name: family.labels(model_name, runner) if name in _GAUGES else family.labels(model_name)
                for name, family in vars(families).items()
                if family is not self._failures
            }
        )
        self.ready(False)
        self.only_nan(False)
        self.idle()

    def waiting(self, items: int) -> None:
        """As `EngineObserver`."""
        self._of.waiting.set(items)

    def started(self, seconds: float) -> None:
        """As `EngineObserver`."""
        self._of.queue.observe(seconds)

    def batch(self, rows: int, tokens: int, padding: int) -> None:
        """As `EngineObserver`."""
        self._of.rows.observe(rows)
        self._of.tokens.observe(tokens)
        self._of.padding.inc(padding)

    def read(self, tokens: int, cached: int = 0) -> None:
        """As `EngineObserver`."""
        self._of.prompt.inc(tokens)
        self._of.cached.inc(cached)

    def first_token(self, seconds: float) -> None:
        """As `EngineObserver`."""
        self._of.first.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """As `EngineObserver`."""
        self._of.next.observe(seconds)

    def written(self, tokens: int) -> None:
        """As `EngineObserver`."""
        self._of.generated.inc(tokens)

    def running(self, sequences: int, cache_usage: float) -> None:
        """As `EngineObserver`."""
        self._of.running.set(sequences)
        self._of.cache.set(cache_usage)

    def only_nan(self, only: bool) -> None:
        """As `EngineObserver`."""
        self._of.nan.set(only)

    def loaded(self, seconds: float) -> None:
        """The model is on its device, so long after its loading began."""
        self._of.load.set(seconds)

    def execution_plan(self, rows: int, tokens: int, lanes: int, threads: int | None) -> None:
        """What a batch may hold, and how many are computed side by side with how many threads each, 0 if unknown."""
        self._of.limit_rows.set(rows)
        self._of.limit_tokens.set(tokens)
        self._of.lanes.set(lanes)
        self._of.threads.set(threads or 0)

    def optimizations(self, known: Iterable[str], failed: Container[str]) -> None:
        """Count optimizations that failed while the model was loaded, and that it is served without.

        Args:
            known: all that there are; those that did not fail are exported as 0.
        """
        for name in known:
            self._failures.labels(self._model_name, str(name)).inc(name in failed)

    def idle(self) -> None:
        """The model does nothing, and no engine is there to say so."""
        self.waiting(0)
        self.running(0, 0.0)

    def ready(self, ready: bool) -> None:
        """Whether the model can answer, after a change."""
        self._of.ready.set(ready)


_GAUGES = frozenset(
    ("waiting", "running", "cache", "load", "ready", "nan", "limit_rows", "limit_tokens", "lanes", "threads")
)


@cache
def _families() -> Any:
    # Imported late: BentoML says where metrics of several processes gather only once a process has started.
    from prometheus_client import Counter, Gauge, Histogram

    def gauge(name: str, about: str) -> Gauge:
        return Gauge(name, about, ["model_name", "runner"], multiprocess_mode="mostrecent")

    def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, ["model_name"], buckets=buckets)

    return SimpleNamespace(
        ready=gauge("model_ready", "1 while the runner can answer."),
        nan=gauge("model_only_nan", "1 while the model computes nothing but NaN."),
        load=gauge("model_load_seconds", "What loading and warming up the model took."),
        limit_rows=gauge("batch_limit_rows", "Rows, or sequences, that a forward pass may have."),
        limit_tokens=gauge("batch_limit_tokens", "Tokens that a forward pass may have."),
        lanes=gauge("compute_lanes", "Forward passes that are computed side by side."),
        threads=gauge("compute_threads", "CPU threads of each of them; 0 where a library chooses."),
        waiting=gauge("queue_size", "Instances that wait for their first forward pass."),
        queue=histogram(
            "queue_wait_seconds", "From an instance's arrival at the runner to its first forward pass.", _WAIT_SECONDS
        ),
        rows=histogram("batch_rows", "Rows, or sequences, of a forward pass.", _BATCH_ROWS),
        tokens=histogram("batch_tokens", "Tokens of a forward pass, without padding.", _BATCH_TOKENS),
        padding=Counter("padding_tokens", "Tokens that made rows of a batch equally long.", ["model_name"]),
        prompt=Counter("prompt_tokens", "Tokens of what was read.", ["model_name"]),
        cached=Counter("cached_prompt_tokens", "Those of them that the prefix cache had.", ["model_name"]),
        generated=Counter("generated_tokens", "Tokens that were written.", ["model_name"]),
        failures=Counter(
            "optimization_failures",
            "Optimizations that failed while the model was loaded, and that it is served without.",
            ["model_name", "optimization"],
        ),
        running=gauge("running_sequences", "Sequences that are being written."),
        cache=gauge("kv_cache_usage_ratio", "Which part of the memory for keys and values is in use."),
        first=histogram(
            "time_to_first_token_seconds",
            "From the arrival of a prompt to the first token of its answer.",
            _FIRST_TOKEN_SECONDS,
        ),
        next=histogram("inter_token_latency_seconds", "Between two tokens of an answer.", _NEXT_TOKEN_SECONDS),
    )

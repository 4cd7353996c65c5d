"""Base class through which engines report their work to metrics."""

from __future__ import annotations


class EngineObserver:
    """Receiver of an engine's reports that ignores them.

    Subclasses override the reports that they record. The methods are called from the event loop and from the computing
    thread.
    """

    def record_waiting(self, items: int) -> None:
        """Record the number of items that wait for their first forward pass, after a change."""

    def record_queue_wait(self, seconds: float) -> None:
        """Record the start of an item's first forward pass, `seconds` after the item's arrival."""

    def record_batch(self, rows: int, tokens: int, padding: int) -> None:
        """Record a forward pass.

        Args:
            tokens: tokens of all rows, without padding.
            padding: tokens that were added to make the rows equally long.
        """

    def record_prefill(self, tokens: int, cached: int = 0) -> None:
        """Record that an item's input tokens were prefilled or encoded.

        Args:
            cached: how many of them were in the prefix cache, so that they were not computed.
        """

    def record_first_token(self, seconds: float) -> None:
        """Record the first token of a sequence, `seconds` after its item's arrival."""

    def record_next_token(self, seconds: float) -> None:
        """Record a further token, `seconds` after the previous one."""

    def record_generated(self, tokens: int) -> None:
        """Record new tokens of a sequence; beam search reports all of them in one call."""

    def record_running(self, sequences: int, cache_usage: float) -> None:
        """Record the state after a step.

        Args:
            sequences: running sequences.
            cache_usage: used share of the KV cache, from 0 to 1.
        """

    def record_only_nan(self, only: bool) -> None:
        """Record whether the model computes nothing but NaN, after a change."""


class DeferredObserver(EngineObserver):
    """Observer that passes reports to another one after `begin`: earlier work is warm-up.

    Args:
        observer: receives all reports after `begin`.
    """

    def __init__(self, observer: EngineObserver) -> None:
        self._observer = observer

    def begin(self) -> None:
        """Pass on all reports from now on."""
        # The bound methods of the other observer replace those of this one, so that a report takes a single call.
        for name in vars(EngineObserver):
            if name.startswith("record_"):
                setattr(self, name, getattr(self._observer, name))

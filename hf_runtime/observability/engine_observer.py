"""What the engines tell of their work as a whole, to whoever counts it."""

from __future__ import annotations

from typing import Any, Protocol


class EngineObserver(Protocol):
    """Whoever counts what an engine does. Calls come from the event loop and from the computing thread."""

    def waiting(self, items: int) -> None:
        """How many items wait for their first forward pass, after a change."""

    def started(self, seconds: float) -> None:
        """An item's first forward pass begins, so long after the item's arrival."""

    def batch(self, rows: int, tokens: int, padding: int) -> None:
        """A forward pass.

        Args:
            tokens: of all rows.
            padding: tokens that were added to make the rows equally long.
        """

    def read(self, tokens: int, cached: int = 0) -> None:
        """An item's tokens were read.

        Args:
            cached: those of them that need not be computed, because another prompt began with the same.
        """

    def first_token(self, seconds: float) -> None:
        """The first token of a sequence, so long after its item's arrival."""

    def next_token(self, seconds: float) -> None:
        """A further token, so long after the one before."""

    def written(self, tokens: int) -> None:
        """So many new tokens of a sequence have come; all of them at once if it was searched with beams."""

    def running(self, sequences: int, cache_usage: float) -> None:
        """After a step: sequences that are being written, and which part of the memory for keys and values is used."""

    def only_nan(self, only: bool) -> None:
        """Report whether the model computes nothing but NaN, after a change."""


class Unobserved:
    """Nobody counts."""

    def waiting(self, items: int) -> None:
        """As `EngineObserver`."""

    def started(self, seconds: float) -> None:
        """As `EngineObserver`."""

    def batch(self, rows: int, tokens: int, padding: int) -> None:
        """As `EngineObserver`."""

    def read(self, tokens: int, cached: int = 0) -> None:
        """As `EngineObserver`."""

    def first_token(self, seconds: float) -> None:
        """As `EngineObserver`."""

    def next_token(self, seconds: float) -> None:
        """As `EngineObserver`."""

    def written(self, tokens: int) -> None:
        """As `EngineObserver`."""

    def running(self, sequences: int, cache_usage: float) -> None:
        """As `EngineObserver`."""

    def only_nan(self, only: bool) -> None:
        """As `EngineObserver`."""


class LateObserver:
    """Passes on what an engine reports from `begin` on: what it answered before was no client's.

    Args:
        observer: receives all reports after `begin`.
    """

    def __init__(self, observer: EngineObserver) -> None:
        self._late = observer
        self._now: EngineObserver = Unobserved()

    def begin(self) -> None:
        """Pass on what is reported from now on."""
        self._now = self._late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)

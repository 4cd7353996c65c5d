"""What the engines tell of an item on its way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Literal, Protocol

from hf_runtime.contract.origin import about

if TYPE_CHECKING:
    from runners.engines.runner import Item


class ItemTrace(Protocol):
    """Whoever follows one item through its engine. Times are those of `monotonic`, in seconds."""

    def step(self, name: Literal["prepare", "finish"], started: float, ended: float) -> None:
        """A step that concerns the item alone."""

    def batch(self, started: float, ended: float, *, rows: int, tokens: int, padding: int) -> None:
        """A forward pass with rows of the item in it.

        Args:
            rows: of the batch, others' among them.
            tokens: of all of these rows.
            padding: tokens that were added to them.
        """

    def sequence(
        self,
        started: float,
        ended: float,
        *,
        first_token: float | None,
        prompt_tokens: int,
        generated_tokens: int,
        cached_tokens: int,
        finish_reason: str | None,
    ) -> None:
        """One of the item's sequences, from the first step that it was in to the last.

        Args:
            finish_reason: None if it was given up.
        """


@contextmanager
def working_on(item: Item, step: Literal["prepare", "finish"]) -> Iterator[None]:
    """Do a step for one item: its trace is told, and what is logged meanwhile is about its request."""
    with about(item.origin):
        if item.trace is None:
            yield
            return
        started = monotonic()
        try:
            yield
        finally:
            item.trace.step(step, started, monotonic())

"""Instance of a request, as a protocol sends it to a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from hf_runtime.contract.request_context import RequestContext


class ItemTrace(Protocol):
    """Recorder of the steps of one item. Times are in seconds, from `time.monotonic`."""

    def record_step(self, name: Literal["prepare", "finish"], started: float, ended: float) -> None:
        """Record a step that the engine computes for this item only."""

    def record_batch(self, started: float, ended: float, *, rows: int, tokens: int, padding: int) -> None:
        """Record a forward pass that contains rows of the item.

        Args:
            rows: all rows of the batch, including rows of other items.
            tokens: tokens of these rows.
            padding: padding tokens of the batch.
        """

    def record_sequence(
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
        """Record one of the item's sequences, from its first step to its last.

        Args:
            finish_reason: None if the sequence was cancelled.
        """


@dataclass(frozen=True, slots=True)
class Item:
    """Instance of a request with its parameters.

    Attributes:
        request_context: the HTTP request of the item.
        trace: records the duration of each step, or None if the item is not traced.
        is_cancelled: returns true if all clients of the answer have disconnected. Any thread may call it. None if the
            item cannot be cancelled.
    """

    instance: Any
    parameters: dict[str, Any] = field(default_factory=dict)
    request_context: RequestContext | None = None
    trace: ItemTrace | None = None
    is_cancelled: Callable[[], bool] | None = None

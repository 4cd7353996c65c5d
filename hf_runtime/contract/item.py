"""One instance on its way from a protocol to a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from hf_runtime.contract.request_context import RequestContext


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


@dataclass(frozen=True, slots=True)
class Item:
    """One instance of a request, with the parameters that concern it.

    Attributes:
        request_context: the HTTP request.
        trace: is told how long each step takes; None if nobody wants to know.
        given_up: returns, in any thread, whether all clients of the answer have left; None if they never do.
    """

    instance: Any
    parameters: dict[str, Any] = field(default_factory=dict)
    request_context: RequestContext | None = None
    trace: ItemTrace | None = None
    is_cancelled: Callable[[], bool] | None = None

"""Admission control by the rows and tokens of all items that are not answered yet.

Rows and tokens stand for the memory and the compute time that the queued items will need.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np

from hf_runtime.contract.errors import InvalidRequest, Overloaded

#: Typical number of characters per token. It gives the estimate for text that is not tokenized yet.
_CHARACTERS_PER_TOKEN = 4


class Reservation:
    """Rows and tokens reserved for one item.

    Attributes:
        rows: number of rows of the item; 1 until it is tokenized.
        tokens: tokens of all its rows, but at least the estimate from the size of its text.
        released: true once the item is finished and its rows and tokens are free again.
    """

    __slots__ = ("_estimate", "released", "rows", "tokens")

    def __init__(self, instance: Any) -> None:
        self.rows = 1
        self.tokens = self._estimate = _count_characters(instance) // _CHARACTERS_PER_TOKEN
        self.released = False

    def apply_minimum(self, tokens: int) -> int:
        """Return `tokens`, or the estimate from the text if that is larger.

        The text stays in memory as long as the item does, so the estimate remains a lower bound.
        """
        return max(tokens, self._estimate)


class Admission:
    """Thread-safe limit on queued rows and tokens, checked before they take memory.

    Args:
        max_rows, max_tokens: limits on the sum over all items that are not answered yet.
        estimate_wait: returns the seconds after which a rejected item may be retried.
    """

    def __init__(self, max_rows: int, max_tokens: int, estimate_wait: Callable[[], int]) -> None:
        self._max_rows, self._max_tokens = max_rows, max_tokens
        self._estimate_wait = estimate_wait
        self._lock = Lock()
        self._rows = self._tokens = 0
        self._current: Reservation | None = None

    @property
    def rows(self) -> int:
        """Number of reserved rows."""
        return self._rows

    @property
    def tokens(self) -> int:
        """Number of reserved tokens."""
        return self._tokens

    def reserve(self, instance: Any) -> Reservation:
        """Reserve one row and the estimated tokens of an item that is not tokenized yet.

        An item is always accepted while no other is reserved, because its tokens are only an estimate.

        Raises:
            Overloaded: the reservations of other items leave too few rows or tokens.
        """
        reservation = Reservation(instance)
        with self._lock:
            if self._rows and (self._rows >= self._max_rows or self._tokens + reservation.tokens > self._max_tokens):
                raise self._overloaded()
            self._rows += reservation.rows
            self._tokens += reservation.tokens
        return reservation

    def begin_preparing(self, reservation: Reservation) -> None:
        """Set the reservation that `check` and `resize` apply to.

        Items are prepared one at a time.
        """
        self._current = reservation

    def check(self, rows: int, tokens: int, field: str = "") -> None:
        """Check that the rows of the item being prepared fit, before they are created.

        Args:
            rows, tokens: number of rows, and tokens of all of them.
            field: field of the request that the rows come from, for the message.

        Raises:
            InvalidRequest: the item alone exceeds a limit.
            Overloaded: the item exceeds a limit together with the items already queued.
        """
        for unit, wanted, limit, setting in (
            ("rows", rows, self._max_rows, "MAX_QUEUE_ROWS"),
            ("tokens", tokens, self._max_tokens, "MAX_QUEUE_TOKENS"),
        ):
            if wanted > limit:
                raise InvalidRequest(
                    f"makes {wanted} {unit}, at most {limit} may wait for this model ({setting})", field=field or None
                )
        own = self._current
        with self._lock:
            own_rows, own_tokens = (own.rows, own.tokens) if own is not None and not own.released else (0, 0)
            if self._rows - own_rows + rows > self._max_rows or self._tokens - own_tokens + tokens > self._max_tokens:
                raise self._overloaded()

    def resize(self, rows: int, tokens: int) -> None:
        """Set the reservation of the item being prepared to its actual rows and tokens.

        Raises:
            InvalidRequest, Overloaded: as `check`.
        """
        self.check(rows, tokens)
        reservation = self._current
        assert reservation is not None, "this is a bug: nothing is being prepared"
        with self._lock:
            if not reservation.released:
                tokens = reservation.apply_minimum(tokens)
                self._rows += rows - reservation.rows
                self._tokens += tokens - reservation.tokens
                reservation.rows, reservation.tokens = rows, tokens

    def release(self, reservation: Reservation) -> None:
        """Release the rows and tokens of an item that was answered, rejected or cancelled."""
        with self._lock:
            if not reservation.released:
                reservation.released = True
                self._rows -= reservation.rows
                self._tokens -= reservation.tokens

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"{self._rows} rows of {self._tokens} tokens are waiting already, and {self._max_rows} rows "
            f"(MAX_QUEUE_ROWS) of {self._max_tokens} tokens (MAX_QUEUE_TOKENS) may: try again later, or with less",
            retry_after=self._estimate_wait(),
        )


def _count_characters(instance: Any) -> int:
    """Count the characters of all strings of an instance; other values count as one token each."""
    if isinstance(instance, str):
        return len(instance)
    # Not recursive, because an instance that is nested too deeply gets its error message only later.
    size, pending = 0, [instance]
    while pending:
        match pending.pop():
            case str() | bytes() as text:
                size += len(text)
            case dict() as fields:
                pending.extend(fields.values())
            case list() | tuple() as parts:
                pending.extend(parts)
            case np.ndarray() as array:
                size += _CHARACTERS_PER_TOKEN * array.size
            case _:
                size += _CHARACTERS_PER_TOKEN
    return size

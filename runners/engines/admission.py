"""Room for what waits: rows and tokens of all items that are not answered yet, which are memory and time to come."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np

from hf_runtime.contract.errors import InvalidRequest, Overloaded

#: Characters of a token, as most tokenizers cut most languages: what counts while a text is not tokenized yet.
_CHARACTERS = 4


class Reservation:
    """The share of one item.

    Attributes:
        tokens: of its rows; before they are known, and as long as its text is more, a guess by the size of that.
        returned: whether its item is done with.
    """

    __slots__ = ("_guessed", "returned", "rows", "tokens")

    def __init__(self, instance: Any) -> None:
        self.rows = 1
        self.tokens = self._guessed = _size(instance) // _CHARACTERS
        self.returned = False

    def at_least_guessed(self, tokens: int) -> int:
        """Count tokens, or estimate them from the text, which is kept as long as the item is."""
        return max(tokens, self._guessed)


class Admission:
    """Counts what waits, in whatever thread, and refuses what would be too much before it takes memory.

    Args:
        max_rows, max_tokens: of all items that are not answered yet.
        wait: gives the seconds after which a refused item may find room.
    """

    def __init__(self, max_rows: int, max_tokens: int, wait: Callable[[], int]) -> None:
        self._max_rows, self._max_tokens = max_rows, max_tokens
        self._wait = wait
        self._lock = Lock()
        self._rows = self._tokens = 0
        self._present: Reservation | None = None

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    @property
    def tokens(self) -> int:
        """Tokens that wait."""
        return self._tokens

    def enter(self, instance: Any) -> Reservation:
        """Let in an item that is not tokenized yet; the only one is never too large, as its tokens are not counted yet.

        Raises:
            Overloaded: others fill the room.
        """
        reservation = Reservation(instance)
        with self._lock:
            if self._rows and (self._rows >= self._max_rows or self._tokens + reservation.tokens > self._max_tokens):
                raise self._full()
            self._rows += reservation.rows
            self._tokens += reservation.tokens
        return reservation

    def prepare(self, reservation: Reservation) -> None:
        """From now on, what is checked and held is the share of this item; one item is prepared at a time."""
        self._present = reservation

    def check(self, rows: int, tokens: int, place: str = "") -> None:
        """Refuse rows of the item that is being prepared before they are made.

        Args:
            place: the field that they come from, for the message.

        Raises:
            InvalidRequest: they are more than may wait at all.
            Overloaded: they are too many beside those of others.
        """
        for what, wanted, most, name in (
            ("rows", rows, self._max_rows, "MAX_QUEUE_ROWS"),
            ("tokens", tokens, self._max_tokens, "MAX_QUEUE_TOKENS"),
        ):
            if wanted > most:
                reason = f"makes {wanted} {what}, at most {most} may wait for this model ({name})"
                raise InvalidRequest(reason, field=place or None)
        own = self._present
        with self._lock:
            kept_rows, kept_tokens = (own.rows, own.tokens) if own is not None and not own.returned else (0, 0)
            if self._rows - kept_rows + rows > self._max_rows or self._tokens - kept_tokens + tokens > self._max_tokens:
                raise self._full()

    def hold(self, rows: int, tokens: int) -> None:
        """Count the rows of the item that is being prepared; raises as `check`."""
        self.check(rows, tokens)
        reservation = self._present
        assert reservation is not None, "this is a bug: nothing is being prepared"
        with self._lock:
            if not reservation.returned:
                tokens = reservation.at_least_guessed(tokens)
                self._rows += rows - reservation.rows
                self._tokens += tokens - reservation.tokens
                reservation.rows, reservation.tokens = rows, tokens

    def leave(self, reservation: Reservation) -> None:
        """The item is answered, refused or given up."""
        with self._lock:
            if not reservation.returned:
                reservation.returned = True
                self._rows -= reservation.rows
                self._tokens -= reservation.tokens

    def _full(self) -> Overloaded:
        return Overloaded(
            f"{self._rows} rows of {self._tokens} tokens are waiting already, and {self._max_rows} rows "
            f"(MAX_QUEUE_ROWS) of {self._max_tokens} tokens (MAX_QUEUE_TOKENS) may: try again later, or with less",
            retry_after=self._wait(),
        )


def _size(instance: Any) -> int:
    """Characters of all texts of an instance, and four for each number, as if it were a token."""
    if isinstance(instance, str):
        return len(instance)
    # Not recursive: what is nested too deeply is refused later, with a message.
    size, waiting = 0, [instance]
    while waiting:
        match waiting.pop():
            case str() | bytes() as text:
                size += len(text)
            case dict() as fields:
                waiting.extend(fields.values())
            case list() | tuple() as parts:
                waiting.extend(parts)
            case np.ndarray() as array:
                size += _CHARACTERS * array.size
            case _:
                size += _CHARACTERS
    return size

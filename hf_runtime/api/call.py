"""A call of a model, apart from the protocol and the transport that carry it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hf_runtime.contract.errors import Overloaded
from hf_runtime.observability.request_record import RequestRecord


class ClientLeft(Exception):
    """The client closed its connection before it had the whole answer."""


class Caller:
    """All clients that send the same API key; every client where no key is needed.

    Args:
        max_streams: that it may read at the same time from one process of the entry service; None is no limit.
    """

    def __init__(self, max_streams: int | None) -> None:
        self._max_streams = max_streams
        self._streams = 0

    def begin_stream(self) -> None:
        """Note a stream that begins.

        Raises:
            Overloaded: there are as many as there may be.
        """
        if self._max_streams is not None and self._streams >= self._max_streams:
            raise Overloaded(
                f"{self._streams} streams are read with this key already (MAX_STREAMS_PER_KEY)", retry_after=1
            )
        self._streams += 1

    def end_stream(self) -> None:
        """Note that one has ended."""
        self._streams -= 1


@dataclass(frozen=True, slots=True)
class CallContext:
    """Everything that computing and streaming answers need to know of a request.

    Attributes:
        record: what metrics and the access log report of it.
        caller: counts its streams.
        timeout: seconds until the answer, or until the next part of a stream.
        wait_until_left: returns once the client has left.
    """

    record: RequestRecord
    caller: Caller
    timeout: float
    wait_until_left: Callable[[], Awaitable[object]]

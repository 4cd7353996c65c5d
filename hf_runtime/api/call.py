"""Context of a call of a model, independent of protocol and transport."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hf_runtime.contract.errors import Overloaded
from hf_runtime.observability.request_record import RequestRecord


class ClientLeft(Exception):
    """The client closed its connection before it had the whole answer."""


class Caller:
    """All clients that send the same API key; all clients if no key is needed.

    Args:
        max_streams: streams that it may have open at the same time in one process of the entry service; None is no
            limit.
    """

    def __init__(self, max_streams: int | None) -> None:
        self._max_streams = max_streams
        self._streams = 0

    def begin_stream(self) -> None:
        """Count a new stream.

        Raises:
            Overloaded: the maximum number of streams is open.
        """
        if self._max_streams is not None and self._streams >= self._max_streams:
            raise Overloaded(
                f"{self._streams} streams are read with this key already (MAX_STREAMS_PER_KEY)", retry_after=1
            )
        self._streams += 1

    def end_stream(self) -> None:
        """Stop counting a stream that has ended."""
        self._streams -= 1


@dataclass(frozen=True, slots=True)
class CallContext:
    """Properties of a request that computing and streaming its answers need.

    Attributes:
        record: what metrics and the access log report of the request.
        caller: counts the streams.
        timeout: seconds until the answer, or until the next delta of a stream.
        wait_until_left: returns once the client has left.
    """

    record: RequestRecord
    caller: Caller
    timeout: float
    wait_until_left: Callable[[], Awaitable[object]]

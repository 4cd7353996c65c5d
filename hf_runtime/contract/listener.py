"""Who follows an answer while it is made; the same on both ends of the wire."""

from __future__ import annotations

from typing import Any, Protocol


class StreamListener(Protocol):
    """Whoever is told of an answer while it is made, in the event loop."""

    def accepted(self) -> None:
        """The item is valid and queued."""

    def delta(self, value: Any) -> None:
        """The next part of the answer."""

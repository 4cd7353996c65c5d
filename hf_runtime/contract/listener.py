"""Interface for objects that receive an answer as a stream.

The entry service and the runners use the same interface.
"""

from __future__ import annotations

from typing import Any, Protocol


class StreamListener(Protocol):
    """Receiver of an answer while it is generated. Its methods run in the event loop."""

    def on_accepted(self) -> None:
        """Handle that the item is valid and queued."""

    def on_delta(self, value: Any) -> None:
        """Handle the next part of the answer."""

"""How far a download is, in a few log lines instead of a bar: a server's log is no terminal."""

from __future__ import annotations

import logging
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Self

from runners.storage.disk import shown_size

logger = logging.getLogger(__name__)

#: Seconds between two lines, at least; and after which one comes even if less than a tenth was added.
_AT_LEAST, _AT_MOST = 5.0, 60.0


class Progress:
    """Counts the bytes of one download, from any thread, and logs start, progress and end."""

    def __init__(self, what: str, total: int | None) -> None:
        """Log the start.

        Args:
            what: what is downloaded, for the log.
            total: bytes; None if the source does not say.
        """
        self._what = what
        self._total = total
        self._done = 0
        self._lock = Lock()
        self._began = self._told_at = monotonic()
        self._told = 0
        logger.info("%s: downloading %s", what, "a file of unknown size" if total is None else shown_size(total))

    def add(self, size: int) -> None:
        """Count bytes that have come, or fewer than none if some must come again."""
        with self._lock:
            self._done += size
            now = monotonic()
            waited, more = now - self._told_at, self._done - self._told
            tenth = self._total is not None and more * 10 >= self._total
            if waited < _AT_LEAST or not (tenth or waited >= _AT_MOST) or self._done == self._total:
                return
            self._told_at, self._told = now, self._done
            if self._total:
                share = 100 * self._done // self._total
                logger.info("%s: %s of %s (%d %%)", self._what, shown_size(self._done), shown_size(self._total), share)
            else:
                logger.info("%s: %s", self._what, shown_size(self._done))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            seconds = monotonic() - self._began
            logger.info("%s: downloaded %s in %.1f s", self._what, shown_size(self._done), seconds)

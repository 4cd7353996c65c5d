"""Log the progress of a download in a few lines, because a server's log is no terminal."""

from __future__ import annotations

import logging
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Self

from runners.storage.disk import format_size

logger = logging.getLogger(__name__)

#: Seconds between two lines: the minimum, and the maximum, after which a line is logged even for less than a tenth.
_MIN_INTERVAL, _MAX_INTERVAL = 5.0, 60.0


class Progress:
    """Counter of the bytes of one download, which logs start, progress and end; thread-safe."""

    def __init__(self, name: str, total: int | None) -> None:
        """Log the start.

        Args:
            name: name of the download in the log.
            total: bytes; None if unknown.
        """
        self._name = name
        self._total = total
        self._done = 0
        self._lock = Lock()
        self._started = self._logged_at = monotonic()
        self._logged = 0
        logger.info("%s: downloading %s", name, "a file of unknown size" if total is None else format_size(total))

    def add(self, size: int) -> None:
        """Count received bytes; a negative size is for bytes that must be downloaded again."""
        with self._lock:
            self._done += size
            now = monotonic()
            waited, added = now - self._logged_at, self._done - self._logged
            tenth = self._total is not None and added * 10 >= self._total
            if waited < _MIN_INTERVAL or not (tenth or waited >= _MAX_INTERVAL) or self._done == self._total:
                return
            self._logged_at, self._logged = now, self._done
            if self._total:
                share = 100 * self._done // self._total
                logger.info(
                    "%s: %s of %s (%d %%)", self._name, format_size(self._done), format_size(self._total), share
                )
            else:
                logger.info("%s: %s", self._name, format_size(self._done))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            seconds = monotonic() - self._started
            logger.info("%s: downloaded %s in %.1f s", self._name, format_size(self._done), seconds)

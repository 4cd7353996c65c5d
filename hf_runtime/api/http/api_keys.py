"""The keys that clients show, compared in constant time and read anew when their file changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

logger = logging.getLogger(__name__)

_Signature = tuple[int, int, int]


class KeyRing:
    """The keys that are valid now; of each, only its digest is kept.

    Args:
        keys: hold as long as this process does.
        file: has more of them, one in a line; blank lines and those that begin with # are none. It is looked at again
            when a key is shown, so that keys can be changed while the server runs; one that cannot be read any more
            changes nothing.
    """

    def __init__(self, keys: Iterable[str], file: Path | None = None) -> None:
        self._fixed = frozenset(map(_digest, keys))
        self._file = file
        self._in_file: frozenset[bytes] = frozenset()
        self._seen: _Signature | None = None
        if file is not None:
            self._read(file)

    @property
    def required(self) -> bool:
        """Whether clients need one at all; also if those of the file are all gone."""
        return bool(self._fixed) or self._file is not None

    def find(self, key: str) -> bytes | None:
        """The digest of a valid key, None of any other."""
        if self._file is not None:
            self._refresh(self._file)
        shown, found = _digest(key), None
        for digest in self._fixed | self._in_file:  # all of them, so that the time tells nothing
            if compare_digest(digest, shown):
                found = digest
        return found

    def _refresh(self, file: Path) -> None:
        try:
            if self._signature(file) != self._seen:
                self._read(file)
                logger.info("the keys in %s are read again", file.name)
        except (OSError, UnicodeDecodeError) as error:
            if self._seen is not None:
                logger.error("%s cannot be read, its last keys stay valid: %s", file.name, error)
            self._seen = None

    def _read(self, file: Path) -> None:
        if not file.is_file():  # a pipe would never end
            raise OSError(f"{file.name} is no file")
        signature = self._signature(file)
        self._in_file = frozenset(map(_digest, keys_in(file)))
        self._seen = signature

    def _signature(self, file: Path) -> _Signature:
        """Another one for another content; a Secret of Kubernetes is changed by exchanging a link."""
        status = file.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size


def keys_in(file: Path) -> list[str]:
    """The keys that a file holds.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not text.
    """
    lines = map(str.strip, file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _digest(key: str) -> bytes:
    return sha256(key.encode(errors="surrogateescape")).digest()

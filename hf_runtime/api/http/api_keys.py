"""API keys, compared in constant time and reloaded when their file changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

logger = logging.getLogger(__name__)

_Signature = tuple[int, int, int]


class KeyRing:
    """Valid keys; only their digests are stored.

    Args:
        keys: valid as long as this process runs.
        file: has more keys, one per line; blank lines and lines that begin with # are ignored. It is checked for
            changes with each request, so that keys can be changed while the server runs. If it becomes unreadable,
            its last keys stay valid.
    """

    def __init__(self, keys: Iterable[str], file: Path | None = None) -> None:
        self._fixed = frozenset(map(_digest, keys))
        self._file = file
        self._in_file: frozenset[bytes] = frozenset()
        self._loaded: _Signature | None = None
        if file is not None:
            self._load(file)

    @property
    def required(self) -> bool:
        """True if clients need a key, even if the file has no keys any more."""
        return bool(self._fixed) or self._file is not None

    def find(self, key: str) -> bytes | None:
        """Return the digest of a valid key, None for any other key."""
        if self._file is not None:
            self._reload_if_changed(self._file)
        given, found = _digest(key), None
        for digest in self._fixed | self._in_file:  # all of them, so that the time reveals nothing
            if compare_digest(digest, given):
                found = digest
        return found

    def _reload_if_changed(self, file: Path) -> None:
        try:
            if _compute_signature(file) != self._loaded:
                self._load(file)
                logger.info("API keys reloaded from %s", file.name)
        except (OSError, UnicodeDecodeError) as error:
            if self._loaded is not None:
                logger.error("API keys not reloaded from %s, its last keys stay valid: %s", file.name, error)
            self._loaded = None

    def _load(self, file: Path) -> None:
        if not file.is_file():  # reading a pipe would not end
            raise OSError(f"{file.name} is no file")
        signature = _compute_signature(file)
        self._in_file = frozenset(map(_digest, read_keys(file)))
        self._loaded = signature


def read_keys(file: Path) -> list[str]:
    """Return the keys in a file.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not text.
    """
    lines = map(str.strip, file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _compute_signature(file: Path) -> _Signature:
    """Return values that change with the file's content.

    The inode is one, because Kubernetes updates a Secret by replacing a link.
    """
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _digest(key: str) -> bytes:
    return sha256(key.encode(errors="surrogateescape")).digest()

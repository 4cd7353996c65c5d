"""Files that others read while they are written."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path


def write_whole(file: Path, data: bytes) -> None:
    """Write a file whole or not at all, and make its folder.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Others may write the same: on this machine, or on one that shares the disk.
    partial = file.with_suffix(f".{platform.node()}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise

"""Files that others read while they are written."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, where they are missing; for this user alone.

    Raises:
        OSError: it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    # What has the name of a folder and is none.
    folder.mkdir(mode=0o700, exist_ok=True)


def write_whole(file: Path, data: bytes) -> None:
    """Write a file whole or not at all, for nobody else to write to, and make its folder.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    make_folder(file.parent)
    # Others may write the same: on this machine, or on one that shares the disk.
    partial = file.with_suffix(f".{platform.node()}.{os.getpid()}")
    try:
        partial.touch(mode=0o644)
        partial.write_bytes(data)
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise

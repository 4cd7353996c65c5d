"""Atomic writing of files that other processes may read at the same time."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, accessible to this user only.

    Raises:
        OSError: a folder cannot be created.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    # Raises if the path exists but is not a folder.
    folder.mkdir(mode=0o700, exist_ok=True)


def write_atomically(file: Path, data: bytes) -> None:
    """Write a file atomically, writable by its owner only, and create its folder.

    Raises:
        OSError: the file cannot be written; no partial file is left.
    """
    make_folder(file.parent)
    # A unique name, because other processes, also on other machines with the same disk, may write the same file.
    partial = file.with_suffix(f".{platform.node()}.{os.getpid()}")
    try:
        partial.touch(mode=0o644)
        partial.write_bytes(data)
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise

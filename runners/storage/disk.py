"""Check the free disk space before files are downloaded."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from hf_runtime.contract.errors import LoadError

#: Bytes that stay free for other programs that write to the disk.
RESERVE = 64 * 2**20

_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check that the disk of a folder has space for new files.

    Args:
        folder: destination of the files; it need not exist yet.
        needed: bytes.
        what: name of the files in the message.

    Raises:
        LoadError: less than `needed` bytes and RESERVE are free.
    """
    if needed > count_free_bytes(folder):
        raise make_no_space_error(folder, what, needed)


def count_free_bytes(folder: Path) -> int:
    """Return the bytes that may be written to the disk of a folder.

    The folder need not exist yet. RESERVE bytes are not counted.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return max(0, shutil.disk_usage(existing).free - RESERVE)


def make_no_space_error(folder: Path, what: str, needed: int | None = None) -> LoadError:
    """Return the error for a full disk.

    Args:
        what: name of the files in the message.
        needed: bytes; None if unknown.
    """
    free = format_size(count_free_bytes(folder))
    return LoadError(
        f"{what} needs {format_size(needed) + ' in' if needed is not None else 'more room than is free in'} {folder}, "
        f"where {free} are free: make room, or choose another folder."
    )


def is_disk_full(error: OSError) -> bool:
    """Return True if writing failed because the disk or the quota is full."""
    return error.errno in _FULL


def format_size(size: int) -> str:
    """Format a number of bytes with a unit, such as 1.5 GiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"

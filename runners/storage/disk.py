"""Room on the disk, asked for before it is needed."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from hf_runtime.contract.errors import LoadError

#: Bytes that are left free for everything else that writes to the disk.
RESERVE = 64 * 2**20

_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse what does not fit.

    Args:
        folder: where the files will be; it need not exist yet.
        needed: bytes.
        what: what is going to be written, for the message.

    Raises:
        LoadError: there is less room than `needed` and a reserve.
    """
    if needed > free_bytes(folder):
        raise no_space(folder, what, needed)


def free_bytes(folder: Path) -> int:
    """Bytes that may be written to the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return max(0, shutil.disk_usage(existing).free - RESERVE)


def no_space(folder: Path, what: str, needed: int | None = None) -> LoadError:
    """The sentence for a full disk.

    Args:
        needed: bytes; None if it is not known.
    """
    free = shown_size(free_bytes(folder))
    return LoadError(
        f"{what} needs {shown_size(needed) + ' in' if needed is not None else 'more room than is free in'} {folder}, "
        f"where {free} are free: make room, or choose another folder."
    )


def is_full(error: OSError) -> bool:
    """Whether writing failed for want of room."""
    return error.errno in _FULL


def shown_size(size: int) -> str:
    """Bytes in a unit that people read: 1.5 GiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"

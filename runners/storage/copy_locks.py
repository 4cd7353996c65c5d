"""Locks on copies of models that are in use: a process holds one on each that it serves from, until it ends."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from threading import Lock

#: The copy of each source that this process serves from: its file, and the descriptor that has the lock.
_held: dict[Path, tuple[Path, int]] = {}
_one_at_a_time = Lock()


def hold(file: Path, source: Path) -> bool:
    """Have a copy be in use by this process, in place of the one of the same source that was so before.

    Args:
        file: any file of the copy that is always there; it may be one that can only be read.
        source: tells which source it is a copy of.

    Returns:
        False if another process has just deleted the copy.
    """
    with _one_at_a_time:
        before = _held.get(source)
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        if before is not None and before[0] == file and os.path.samestat(os.fstat(before[1]), os.fstat(descriptor)):
            os.close(descriptor)
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            # No locks on this file system, and then nothing is deleted either.
            os.close(descriptor)
            return True
        if not _is_there(file, descriptor):
            os.close(descriptor)
            return False
        _held[source] = file, descriptor
        if before is not None:
            os.close(before[1])
        return True


def delete_unused(place: Path, file: Path, aside: str) -> bool:
    """Delete a copy that no process serves from; False if one does.

    Args:
        file: the one of the copy that is given to `hold`.
        aside: a path beside it that nobody reads, where it is put first.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(place, aside)
    except OSError:
        return False
    else:
        shutil.rmtree(aside, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)


def _is_there(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except OSError:
        return False

"""Locks on the copies of models that are in use.

A process holds a shared lock on each copy that it serves from, until the process ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from threading import Lock

#: The locked file and its descriptor, by source: the copies that this process serves from.
_held_locks: dict[Path, tuple[Path, int]] = {}
_mutex = Lock()


def lock_copy(file: Path, source: Path) -> bool:
    """Lock a copy for this process, and release its earlier copy of the same source.

    Args:
        file: a file that every copy has; read access is enough.
        source: folder of all copies of the same source.

    Returns:
        False if another process has just deleted the copy.
    """
    with _mutex:
        old = _held_locks.get(source)
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        if old is not None and old[0] == file and os.path.samestat(os.fstat(old[1]), os.fstat(descriptor)):
            os.close(descriptor)
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            # This file system has no locks, so no process can delete copies on it either.
            os.close(descriptor)
            return True
        if not _is_current_file(file, descriptor):
            os.close(descriptor)
            return False
        _held_locks[source] = file, descriptor
        if old is not None:
            os.close(old[1])
        return True


def delete_unlocked_copy(copy: Path, file: Path, trash: str) -> bool:
    """Delete a copy that no process has locked.

    Args:
        copy: folder of the copy.
        file: the file of the copy that is passed to `lock_copy`.
        trash: unused path in the same folder; the copy is moved there first, so that no process finds half of it.

    Returns:
        False if the copy is locked or cannot be moved.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(copy, trash)
    except OSError:
        return False
    else:
        shutil.rmtree(trash, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)


def _is_current_file(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except OSError:
        return False

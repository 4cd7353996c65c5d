"""Folder of files that only this user or root can have written.

Machine code is executed as it is read, and a hash in the same file would not protect against another user.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_runtime.atomic_write import make_folder, write_atomically

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotPrivateError(Exception):
    """Error of a folder or file that other users can write to.

    The message names it in one line.
    """


class PrivateFolder:
    """Folder with subfolders of files that only this user and root can write to.

    The rule is the one of ssh for keys: the folder, its files and its parents belong to this user or to root, and no
    other user may write to them. There are two exceptions for parents: the sticky bit (/tmp), with which users cannot
    replace each other's files, and the root of a volume, as the root of a Kubernetes emptyDir is writable for all
    users. If another user replaces the folder there, it belongs to that user and is refused.

    Args:
        folder: may not exist yet. Symbolic links to it are followed, symbolic links inside it are refused.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self) -> None:
        """Raise `NotPrivateError` if other users can write to the folder or to one of its parents."""
        folder = self._folder.absolute()
        links = [path for path in (folder, *folder.parents) if path.is_symlink()]
        for link in links:
            _check_owner(link, link.lstat())
        folder = Path(os.path.realpath(folder))
        if folder.exists():
            _check_owner_and_mode(folder, folder.stat())
        for parent in folder.parents:
            if parent.exists():
                _check_parent(parent)

    def read(self, name: str) -> bytes:
        """Read a file.

        Args:
            name: `folder/file`.

        Raises:
            NotPrivateError: other users could have written it.
            OSError: the file does not exist, or cannot be read.
        """
        self.check()
        inner, _, file = name.partition("/")
        flags = os.O_RDONLY | os.O_CLOEXEC
        # Descriptors in place of paths, so that the checked file is the one that is read.
        with (
            _open_checked(Path(os.path.realpath(self._folder)), flags | os.O_DIRECTORY) as outer_descriptor,
            _open_checked(self._folder / inner, flags | os.O_DIRECTORY, outer_descriptor) as inner_descriptor,
            _open_checked(self._folder / inner / file, flags | os.O_NONBLOCK, inner_descriptor) as descriptor,
            open(descriptor, "rb", closefd=False) as opened,
        ):
            return opened.read()

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically, with access for this user only.

        Raises:
            NotPrivateError: other users could write it too.
            OSError: the file cannot be written.
        """
        self.check()
        file = self._folder / name
        make_folder(file.parent)
        for folder in (Path(os.path.realpath(self._folder)), file.parent):
            with _open_checked(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY):
                pass
        write_atomically(file, data)


@contextmanager
def _open_checked(path: Path, flags: int, folder: int | None = None) -> Iterator[int]:
    """Open a file or folder inside an open folder, and check its owner and mode."""
    if path.is_symlink():
        raise NotPrivateError(f"{path} is a link")
    descriptor = os.open(path if folder is None else path.name, flags | os.O_NOFOLLOW, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            raise NotPrivateError(f"{path} is no file")
        _check_owner_and_mode(path, status)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_owner_and_mode(path: Path, status: os.stat_result) -> None:
    _check_owner(path, status)
    if status.st_mode & _OTHERS_WRITE:
        raise NotPrivateError(f"others may write to {path}, mode {stat.S_IMODE(status.st_mode):04o}")


def _check_parent(path: Path) -> None:
    status = path.stat()
    if status.st_mode & stat.S_ISVTX or path.is_mount():
        _check_owner(path, status)
    else:
        _check_owner_and_mode(path, status)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise NotPrivateError(f"{path} belongs to the user {status.st_uid}")

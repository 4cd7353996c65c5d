"""What a start has read of libraries' files, and nobody reads again: code, and what it is linked by."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from mmap import MADV_DONTNEED
from pathlib import PurePath

import psutil


def give_back_library_pages() -> None:
    """Take what is unchanged of libraries' files out of this process's memory.

    Importing PyTorch and transformers and making a program of a model run through 170 MB of them, LLVM's and PyTorch's
    above all; answering runs through 40. Whoever needs a page again gets it from the system's cache of files, in a
    microsecond. Where the system is not Linux, nothing is done.

    Source: https://man7.org/linux/man-pages/man2/madvise.2.html
    """
    with suppress(AttributeError, OSError, psutil.Error):  # not every system has these, or lets them be read
        madvise = ctypes.CDLL(None).madvise
        for first, end in _unchanged():
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), MADV_DONTNEED)


def _unchanged() -> Iterator[tuple[int, int]]:
    """Addresses of what a file can give again: its pages would be lost where something was written into them."""
    for mapping in psutil.Process().memory_maps(grouped=False):
        library = mapping.perms in ("r-xp", "r--p") and ".so" in PurePath(mapping.path).suffixes
        if library and not (mapping.anonymous or mapping.private_dirty or mapping.swap):
            first, _, end = mapping.addr.partition("-")
            yield int(first, 16), int(end, 16)

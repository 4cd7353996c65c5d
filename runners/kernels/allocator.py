"""How the C library keeps memory between one operation and the next."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

#: What the C library reads when a process begins: all threads share one heap. By itself it gives each of them its own,
#: and what is free at the end of those never goes back to the system: 15 to 90 MB of a runner, once a large batch has
#: been computed.
MEMORY_ENVIRONMENT: Mapping[str, str] = {"MALLOC_ARENA_MAX": "1"}

#: Parameters of glibc's `mallopt`. Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3

#: Bytes of one tensor that are taken from the heap, at most: the most that glibc comes to by itself.
_LARGEST = 32 << 20

#: The same while a model is loaded: its weights are larger.
_LARGEST_OF_LOADING = 1 << 18

#: Freed bytes at the end of a heap that are kept. A thread's heaps are of 64 MiB, and are never larger than that.
_KEPT, _KEPT_OF_THREADS = 256 << 20, 64 << 20


def keep_freed_memory() -> None:
    """Keep what a tensor frees for the next one, in place of giving it back to the system.

    The outputs of a layer are megabytes, freed as soon as the next layer has read them. The C library gives so much
    back at once, and takes it anew, page by page, each of which the system fills with zeros: on an Intel Xeon 8 % of
    the time of a batch in float32, and 22 % in bfloat16. Where the C library is not glibc, nothing is done.
    """
    _set({_MMAP_THRESHOLD: _LARGEST, _TRIM_THRESHOLD: _KEPT, _TOP_PAD: _KEPT_OF_THREADS})


@contextmanager
def large_tensors_apart() -> Iterator[None]:
    """While it is entered, large tensors are no part of a heap; then they are, as `keep_freed_memory` says.

    For the time that a model is loaded: what its weights are made of is freed between those that stay, and a heap that
    is full of holes keeps them, 10 to 40 MB with MiniLM.
    """
    _set({_MMAP_THRESHOLD: _LARGEST_OF_LOADING})
    try:
        yield
    finally:
        keep_freed_memory()


def _set(parameters: Mapping[int, int]) -> None:
    with suppress(OSError, AttributeError):  # glibc's alone
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in parameters.items():
            mallopt(parameter, value)

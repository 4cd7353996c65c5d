"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

#: Environment variable that the C library reads when a process starts: all threads share one heap. By default each
#: thread has its own heap, and free memory at the end of these never returns to the system: 15 to 90 MB per runner.
MEMORY_ENVIRONMENT: Mapping[str, str] = {"MALLOC_ARENA_MAX": "1"}

#: Parameters of glibc's `mallopt`. Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3

#: Size in bytes from which a tensor is not taken from the heap: the largest value that glibc chooses by itself.
_HEAP_LIMIT = 32 << 20

#: The same while a model is loaded, so that its weights are not on the heap.
_HEAP_LIMIT_LOADING = 1 << 18

#: Free bytes at the end of a heap that are kept. A thread's heap has at most 64 MiB.
_FREE_BYTES, _FREE_BYTES_THREADS = 256 << 20, 64 << 20


def keep_freed_memory() -> None:
    """Keep freed memory for the next tensor instead of returning it to the system.

    The outputs of a layer are megabytes, and are freed after the next layer. By default glibc returns so much memory
    immediately, and the system fills each page with zeros when it is allocated again: on an Intel Xeon 8 % of a
    batch's time in float32, and 22 % in bfloat16. Does nothing if the C library is not glibc.
    """
    _set_parameters({_MMAP_THRESHOLD: _HEAP_LIMIT, _TRIM_THRESHOLD: _FREE_BYTES, _TOP_PAD: _FREE_BYTES_THREADS})


@contextmanager
def separate_large_tensors() -> Iterator[None]:
    """Allocate large tensors outside the heap inside the `with`.

    Afterwards `keep_freed_memory` is called.

    It is used while a model is loaded: temporary tensors are freed between the weights, and the heap would keep these
    gaps, 10 to 40 MB with MiniLM.
    """
    _set_parameters({_MMAP_THRESHOLD: _HEAP_LIMIT_LOADING})
    try:
        yield
    finally:
        keep_freed_memory()


def _set_parameters(parameters: Mapping[int, int]) -> None:
    with suppress(OSError, AttributeError):  # only glibc has `mallopt`
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in parameters.items():
            mallopt(parameter, value)

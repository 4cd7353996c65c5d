"""When Python looks for garbage: not while libraries are imported, and not among what stays.

PyTorch and transformers are 360,000 objects, and each full collection looks at all of them. That is 1.5 of the 6.5 s
that their import takes, and later each stops all threads for 0.2 s (two cores of an AMD EPYC).
Source: https://docs.python.org/3/library/gc.html#gc.freeze
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """While it is entered nothing is collected, and what is there at its end is never looked at again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def freeze_gc() -> None:
    """Collect once more, then look at nothing of what is left."""
    gc.collect()
    gc.freeze()


def collect_everything() -> None:
    """Collect among all objects; who leaves some of them out does so anew."""
    gc.unfreeze()
    gc.collect()

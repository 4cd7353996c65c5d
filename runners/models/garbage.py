"""Pause garbage collection during imports, and exclude long-lived objects from it.

PyTorch and transformers create 360,000 objects, and each full collection visits all of them. That is 1.5 of the 6.5 s
that their import takes. Later, each collection would stop all threads for 0.2 s (two cores of an AMD EPYC).
Source: https://docs.python.org/3/library/gc.html#gc.freeze
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection; at the end, exclude all existing objects from later ones."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def freeze_gc() -> None:
    """Collect garbage, then exclude all remaining objects from later collections."""
    gc.collect()
    gc.freeze()


def collect_everything() -> None:
    """Collect garbage among all objects, frozen ones too; nothing is frozen afterwards."""
    gc.unfreeze()
    gc.collect()

"""Promise: permanent objects are left out of collections, and dropped ones are collected."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from importlib import import_module

import pytest

from runners.models.garbage import collect_everything, freeze_gc, gc_paused


class Cycle:
    """Object that only a garbage collection frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _restore_gc() -> Iterator[None]:
    yield
    gc.unfreeze()


def _dropped() -> weakref.ref[Cycle]:
    return weakref.ref(Cycle())


def test_permanent_objects_are_not_scanned_and_later_ones_are() -> None:
    freeze_gc()
    assert gc.get_freeze_count() > 1000
    before = len(gc.get_objects())
    later = _dropped()
    gc.collect()
    assert later() is None
    assert len(gc.get_objects()) <= before + 100


def test_existing_garbage_is_collected_first() -> None:
    dropped = _dropped()
    freeze_gc()
    assert dropped() is None


def test_a_permanent_object_is_collected_once_it_is_dropped() -> None:
    kept = Cycle()
    dropped = weakref.ref(kept)
    freeze_gc()
    del kept
    gc.collect()
    assert dropped() is not None
    collect_everything()
    assert dropped() is None


def test_collection_pauses_during_imports_even_if_one_fails() -> None:
    with gc_paused():
        dropped = _dropped()
        assert not gc.isenabled()
        assert dropped() is not None
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), gc_paused():
        import_module("runners.models.no_such_module")
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000

"""Promises of collecting garbage: what stays is looked at no more, what is dropped is collected all the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from importlib import import_module

import pytest

from runners.models.garbage import collect_everything, freeze_gc, gc_paused


class Cycle:
    """What only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()


def _dropped() -> weakref.ref[Cycle]:
    return weakref.ref(Cycle())


def test_what_stays_is_not_looked_at_and_what_comes_later_is() -> None:
    freeze_gc()
    assert gc.get_freeze_count() > 1000
    before = len(gc.get_objects())
    later = _dropped()
    gc.collect()
    assert later() is None
    assert len(gc.get_objects()) <= before + 100


def test_garbage_is_not_left_out() -> None:
    dropped = _dropped()
    freeze_gc()
    assert dropped() is None


def test_what_was_left_out_is_collected_once_it_is_dropped() -> None:
    kept = Cycle()
    dropped = weakref.ref(kept)
    freeze_gc()
    del kept
    gc.collect()
    assert dropped() is not None
    collect_everything()
    assert dropped() is None


def test_nothing_is_collected_while_libraries_are_imported_also_if_one_fails() -> None:
    with gc_paused():
        dropped = _dropped()
        assert not gc.isenabled()
        assert dropped() is not None
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), gc_paused():
        import_module("runners.models.no_such_module")
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000

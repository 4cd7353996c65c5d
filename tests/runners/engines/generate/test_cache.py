"""Promise: each sequence keeps its own keys and values, within the memory budget."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runners.engines.generate.cache import CacheSlot, KVCache, LayerShape
from runners.engines.generate.prefix_cache import common_prefix_length, find_longest_prefix

LAYERS = [LayerShape(2, 3, 5, torch.float32, torch.device("cpu"))] * 2
BUDGET = 2000


class CacheMachine(RuleBasedStateMachine):
    """State machine in which each sequence stores its own number and must read it back."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = KVCache(LAYERS, budget=BUDGET, slab_tokens=512, max_rows=4, max_length=900)
        self.slots: dict[int, CacheSlot] = {}
        self.made = 0

    def _write(self, number: int, slot: CacheSlot, length: int) -> None:
        for layer in range(2):
            slot.slab.keys[layer][slot.index, slot.length : length] = number + layer
            slot.slab.values[layer][slot.index, slot.length : length] = -number - layer
        slot.length = length

    @rule(tokens=st.integers(1, 900))
    def start(self, tokens: int) -> None:
        slot = self.cache.allocate(tokens)
        if slot is not None:
            assert slot.capacity >= tokens
            self.made += 1
            self.slots[self.made] = slot
            self._write(self.made, slot, tokens)

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.slots)))
        slot = self.slots[number]
        wanted = min(slot.length + data.draw(st.integers(1, 300)), 900)
        if wanted <= slot.capacity or self.cache.grow(slot, wanted):
            self._write(number, slot, wanted)

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.cache.free(self.slots.pop(data.draw(st.sampled_from(sorted(self.slots)))))

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def copy_out(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.slots)))
        copied = self.cache.copy_out(self.slots[number])
        if copied is not None:
            self.made += 1
            again = self.slots[number]
            assert torch.equal(
                copied.slab.keys[1][copied.index, : copied.length], again.slab.keys[1][again.index, : again.length]
            )
            self.cache.free(copied)

    @invariant()
    def check_each_sequence_reads_its_own_values(self) -> None:
        for number, slot in self.slots.items():
            assert slot.slab.slots[slot.index] is slot
            for layer in range(2):
                assert (slot.slab.keys[layer][slot.index, : slot.length] == number + layer).all()
                assert (slot.slab.values[layer][slot.index, : slot.length] == -number - layer).all()

    @invariant()
    def check_the_budget(self) -> None:
        assert self.cache.tokens <= BUDGET
        assert bool(self.cache.slabs) == bool(self.slots)


CacheMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestCache = CacheMachine.TestCase


def test_a_new_slot_is_zeroed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: torch.full(shape, torch.nan, **options))
    cache = KVCache(LAYERS, budget=BUDGET, slab_tokens=512, max_rows=4, max_length=900)
    first, second = cache.allocate(5), cache.allocate(7)
    assert first is not None
    assert second is not None
    for slot in (first, second):
        for tensor in (*slot.slab.keys, *slot.slab.values):
            assert not tensor[slot.index].any()


def test_the_longest_shared_prefix_is_found_to_the_token() -> None:
    ids = list(range(100))
    for length in (16, 17, 50, 99, 100):
        assert common_prefix_length(ids, [*ids[:length], *([-1] * 30)]) == length
    assert common_prefix_length(ids, ids[:15]) == 0
    assert common_prefix_length(ids, [-1, *ids]) == 0


def test_a_prefix_covers_computed_tokens_only_and_leaves_out_the_last() -> None:
    cache = KVCache(LAYERS, budget=BUDGET, slab_tokens=512, max_rows=4, max_length=900)
    slot = cache.allocate(60)
    assert slot is not None
    slot.length = 30
    ids = list(range(60))
    assert find_longest_prefix(ids, [(ids, slot)]) == (slot, 30)
    assert find_longest_prefix(ids[:25], [(ids, slot)]) == (slot, 24)
    assert find_longest_prefix([-1, *ids], [(ids, slot)]) is None

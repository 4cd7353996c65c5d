"""Promise: each token of a step attends to its own sequence only."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from runners.engines.generate import step as step_module
from runners.engines.generate.cache import CacheSlot, KVCache, LayerShape
from runners.engines.generate.step import Step
from runners.kernels.kernels import Kernels
from tests.runners.kernels.compiled import get_kernels

HEADS, SHARED, SIZE = 2, 3, 8
LAYERS = [LayerShape(HEADS, SIZE, SIZE, torch.float32, torch.device("cpu"))] * 2
SCALE = SIZE**-0.5

#: Tokens that each sequence has before the step, and those it gets in the step.
SEQUENCES = [(5, 1), (0, 40), (150, 1), (0, 3), (0, 37), (0, 1), (9, 20), (0, 2), (200, 17), (0, 130), (0, 150)]


class States:
    """Queries, keys and values of all sequences' tokens in one layer."""

    def __init__(self) -> None:
        made = torch.Generator().manual_seed(3)
        self.all = [
            [torch.randn(heads, old + new, SIZE, generator=made) for heads in (HEADS * SHARED, HEADS, HEADS)]
            for old, new in SEQUENCES
        ]

    def attended(self, number: int, window: int | None) -> torch.Tensor:
        """Return the attention of one sequence by itself; shape (new tokens, heads, size)."""
        query, key, value = self.all[number]
        positions = torch.arange(key.shape[1])
        seen = positions <= positions[:, None]
        if window is not None:
            seen &= positions > positions[:, None] - window
        alone = scaled_dot_product_attention(
            query[None], key[None], value[None], attn_mask=seen, scale=SCALE, enable_gqa=True
        )
        return alone[0].transpose(0, 1)[SEQUENCES[number][0] :]


def _fill_slots(states: States, layer: int) -> list[CacheSlot]:
    cache = KVCache(LAYERS, budget=1 << 14, slab_tokens=1024, max_rows=16, max_length=512)
    slots = []
    for (old, new), (_, key, value) in zip(SEQUENCES, states.all, strict=True):
        slot = cache.allocate(old + new)
        assert slot is not None
        slot.slab.keys[layer][slot.index, :old] = key[:, :old].transpose(0, 1)
        slot.slab.values[layer][slot.index, :old] = value[:, :old].transpose(0, 1)
        slot.length = old
        slots.append(slot)
    return slots


def _make_step(slots: Sequence[CacheSlot], kernels: Kernels | None = None) -> tuple[Step, list[int]]:
    """Build a step of single tokens, then of chunks; return it with its order of sequences."""
    slabs = [id(slot.slab) for slot in slots]
    single = [number for number, (_, new) in enumerate(SEQUENCES) if new == 1]
    single.sort(key=lambda number: (slabs.index(slabs[number]), slots[number].index))
    longer = [number for number, (_, new) in enumerate(SEQUENCES) if new > 1]
    step = Step(
        [(slots[number], 7) for number in single],
        [(slots[number], [7] * SEQUENCES[number][1]) for number in longer],
        torch.device("cpu"),
        kernels,
    )
    return step, single + longer


@pytest.mark.parametrize("window", [None, 6, 38])
@pytest.mark.parametrize("one_by_one", [frozenset({"cpu"}), frozenset()], ids=["prompts one by one", "together"])
@pytest.mark.parametrize("large", [None, 0, 1 << 30], ids=["PyTorch", "all threads", "one thread"])
def test_each_token_sees_its_own_sequence(
    monkeypatch: pytest.MonkeyPatch, one_by_one: frozenset[str], window: int | None, large: int | None
) -> None:
    monkeypatch.setattr(step_module, "_ONE_BY_ONE", one_by_one)
    monkeypatch.setattr(step_module, "LARGE", large)
    states = States()
    step, order = _make_step(_fill_slots(states, 1), get_kernels(torch.float32) if large is not None else None)
    news = [[tensor[:, SEQUENCES[number][0] :] for tensor in states.all[number]] for number in order]
    query, key, value = (torch.cat([new[part] for new in news], dim=1) for part in range(3))
    attended = step.attend(1, query, key, value, SCALE, window)
    expected = torch.cat([states.attended(number, window) for number in order])
    torch.testing.assert_close(attended, expected)
    filled = torch.full_like(expected, torch.nan)
    assert step.attend(1, query, key, value, SCALE, window, out=filled) is filled
    torch.testing.assert_close(filled, expected)


def test_prompts_of_similar_length_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "_ONE_BY_ONE", frozenset())
    step, order = _make_step(_fill_slots(States(), 0))
    calls: list[tuple[int, ...]] = []

    def counted(query: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(query.shape[:2]))
        return torch.zeros(*query.shape[:3], SIZE)

    monkeypatch.setattr(step_module, "_compute_attention", counted)
    tokens = sum(SEQUENCES[number][1] for number in order)
    query, key = torch.zeros(HEADS * SHARED, tokens, SIZE), torch.zeros(HEADS, tokens, SIZE)
    step.attend(0, query, key, key, SCALE, None)
    assert sorted(calls) == [(1, 17), (1, 20), (2, 3), (2, 40), (2, 150)]

"""Keys and values of running sequences, within a budget of tokens.

Sequences of like length share a slab: for each layer one tensor with a place for each sequence. So one call of
attention serves all of them, a sequence is nowhere padded to more than twice its length, and none is ever copied to
make room for another. A sequence that outgrows its place moves to a slab with longer ones; when one leaves, the last of
its slab takes its place, so that the places in use are always the first.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

logger = logging.getLogger(__name__)

#: Slabs that the budget has room for at least.
_SLABS = 16

#: What one layer keeps of a token: heads, their size, type and device.
_Shape = tuple[int, int, torch.dtype, torch.device]

#: The shortest place, in tokens: shorter ones would make a sequence move often.
_SHORTEST = 128


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of a token: `heads` keys of `key_size` and values of `value_size`."""

    heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Memory of one token."""
        return self.heads * (self.key_size + self.value_size) * self.dtype.itemsize


class CacheSlot:
    """Where a sequence's keys and values are; it stays the sequence's own while slab and index change."""

    __slots__ = ("index", "length", "slab")

    def __init__(self, slab: Slab, index: int) -> None:
        self.slab = slab
        self.index = index
        self.length = 0

    @property
    def capacity(self) -> int:
        """Tokens that it can hold."""
        return self.slab.capacity


class Slab:
    """Places of one capacity.

    Attributes:
        keys: for each layer a tensor (places, capacity, heads, key size).
        values: likewise (places, capacity, heads, value size).
        key_addresses, value_addresses: where those of each layer are in memory, shape (layers,).
        places: those in use, each at its own index.
    """

    def __init__(self, layers: Sequence[LayerShape], size: int, capacity: int) -> None:
        self.capacity = capacity
        self.size = size
        self.places: list[CacheSlot] = []
        # Layers that are alike are one tensor: a place is cleared or copied in one operation, not in one for each.
        self._stacks: list[torch.Tensor] = []
        self.keys = self._stacked([(s.heads, s.key_size, s.dtype, s.device) for s in layers])
        self.values = self._stacked([(s.heads, s.value_size, s.dtype, s.device) for s in layers])
        self.key_addresses = np.array([keys.data_ptr() for keys in self.keys])
        self.value_addresses = np.array([values.data_ptr() for values in self.values])

    def _stacked(self, shapes: Sequence[_Shape]) -> list[torch.Tensor]:
        alike: defaultdict[_Shape, list[int]] = defaultdict(list)
        for layer, shape in enumerate(shapes):
            alike[shape].append(layer)
        made: dict[int, torch.Tensor] = {}
        for (heads, width, dtype, device), numbers in alike.items():
            # A place is cleared when it is taken. To clear all of them here costs a lone sequence more than two tokens.
            stack = torch.empty(len(numbers), self.size, self.capacity, heads, width, dtype=dtype, device=device)
            self._stacks.append(stack)
            made.update(zip(numbers, stack, strict=True))
        return [made[layer] for layer in range(len(shapes))]

    @property
    def tokens(self) -> int:
        """Memory that it takes, in tokens."""
        return self.size * self.capacity

    def add(self, length: int = 0) -> CacheSlot:
        """The next free place, empty; but for its first tokens, if those are copied to it next."""
        slot = CacheSlot(self, len(self.places))
        self._clear(slot.index, length)
        self.places.append(slot)
        return slot

    def remove(self, slot: CacheSlot) -> None:
        """Free a place; the last one moves into the gap."""
        last = self.places.pop()
        if last is not slot:
            self.copy(slot.index, last, last.length)
            last.index = slot.index
            self.places[slot.index] = last
            self._clear(last.index, last.length)

    def _clear(self, index: int, start: int) -> None:
        """Forget what stood in a place from a token on.

        It is masked, but a number that is none, of a sequence whose computation overflowed, would show through.
        """
        for stack in self._stacks:
            stack[:, index, start:] = 0

    def copy(self, index: int, source: CacheSlot, length: int) -> None:
        """Copy the first `length` tokens of a sequence, of the same layers, to a place."""
        for mine, theirs in zip(self._stacks, source.slab._stacks, strict=True):
            mine[:, index, :length] = theirs[:, source.index, :length]


def _allocated(layers: Sequence[LayerShape], size: int, capacity: int) -> Slab | None:
    """A slab, unless the system has less memory than it was thought to have."""
    try:
        return Slab(layers, size, capacity)
    except (RuntimeError, MemoryError):  # torch has no other name for it on a CPU
        logger.warning("no memory for %d sequences of %d tokens", size, capacity, exc_info=True)
        return None


class KVCache:
    """Places for keys and values.

    Args:
        budget: tokens that all slabs together may hold.
        slab_tokens: of a slab, where the budget allows; so many short sequences share one.
        max_rows: no slab needs more places.
        longest: no sequence is longer.
    """

    def __init__(
        self, layers: Sequence[LayerShape], *, budget: int, slab_tokens: int, max_rows: int, longest: int
    ) -> None:
        self.budget = budget
        self.slabs: list[Slab] = []
        self._layers = layers
        self._slab_tokens = slab_tokens
        self._max_rows = max_rows
        self.longest = min(longest, budget)

    @property
    def tokens(self) -> int:
        """Memory in use, in tokens."""
        return sum(slab.tokens for slab in self.slabs)

    def capacity(self, tokens: int) -> int:
        """The capacity of a place for so many tokens."""
        return min(max(_SHORTEST, 1 << (tokens - 1).bit_length()), self.longest)

    def allocate(self, tokens: int) -> CacheSlot | None:
        """A place for so many tokens; None if there is no memory for it now.

        Args:
            tokens: not more than `budget` and the longest sequence.
        """
        capacity = self.capacity(tokens)
        assert tokens <= capacity, f"this is a bug: {tokens} tokens were admitted where {capacity} fit"
        slab = next((s for s in self.slabs if s.capacity == capacity and len(s.places) < s.size), None)
        if slab is None:
            slab = self._new_slab(capacity)
        if slab is None:
            larger = [s for s in self.slabs if s.capacity > capacity and len(s.places) < s.size]
            slab = min(larger, key=lambda s: s.capacity, default=None)
        return slab.add() if slab is not None else None

    def _new_slab(self, capacity: int) -> Slab | None:
        """Places of a capacity as far as the budget allows: few at once where it is small, so that sequences of other
        lengths find a place as well."""
        room = min(self._slab_tokens, self.budget // _SLABS, self.budget - self.tokens)
        size = min(max(room // capacity, 1), self._max_rows)
        if self.tokens + size * capacity > self.budget:
            return None
        slab = _allocated(self._layers, size, capacity)
        if slab is not None:
            self.slabs.append(slab)
        return slab

    def clear(self) -> None:
        """Forget all places; nobody may use one any more."""
        self.slabs.clear()

    def grow(self, slot: CacheSlot, tokens: int) -> bool:
        """Move a sequence to a place for so many tokens; False if there is no memory for it now."""
        moved = self.allocate(tokens)
        if moved is None:
            return False
        moved.slab.copy(moved.index, slot, slot.length)
        old = CacheSlot(slot.slab, slot.index)
        slot.slab.places[slot.index] = old
        slot.slab, slot.index = moved.slab, moved.index
        slot.slab.places[slot.index] = slot
        self.free(old)
        return True

    def copy_out(self, slot: CacheSlot) -> CacheSlot | None:
        """A copy of a sequence in as much memory as it takes; None if there is not so much."""
        if self.tokens + slot.length > self.budget:
            return None
        slab = _allocated(self._layers, 1, slot.length)
        if slab is None:
            return None
        self.slabs.append(slab)
        copied = slab.add(slot.length)
        slab.copy(copied.index, slot, slot.length)
        copied.length = slot.length
        return copied

    def free(self, slot: CacheSlot) -> None:
        """Give a place back; an empty slab's memory too."""
        slot.slab.remove(slot)
        if not slot.slab.places:
            self.slabs.remove(slot.slab)

"""KV cache of running sequences, within a budget of tokens.

Sequences of similar length share a slab: one tensor per layer, with a slot for each sequence. One attention call serves
the whole slab, and no sequence is padded to more than twice its length. A sequence that outgrows its slot moves to a
slab with longer slots. When a sequence leaves, the last one of its slab moves into the gap, so that the used slots are
always the first ones.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

logger = logging.getLogger(__name__)

#: The least number of slabs that fit into the budget.
_MIN_SLABS = 16

#: Keys or values of one layer: heads, size of a head, type and device.
_Shape = tuple[int, int, torch.dtype, torch.device]

#: Capacity of the smallest slot in tokens: with smaller ones a sequence would move often.
_MIN_CAPACITY = 128


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Shape of one token in one layer: `heads` keys of `key_size`, values of `value_size`."""

    heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Memory of one token in bytes."""
        return self.heads * (self.key_size + self.value_size) * self.dtype.itemsize


class CacheSlot:
    """Location of a sequence's keys and values.

    The object stays the same when the sequence moves: its slab and index change.

    Attributes:
        slab, index: where the sequence is now.
        length: tokens that are cached.
    """

    __slots__ = ("index", "length", "slab")

    def __init__(self, slab: Slab, index: int) -> None:
        self.slab = slab
        self.index = index
        self.length = 0

    @property
    def capacity(self) -> int:
        """Number of tokens that the slot can hold."""
        return self.slab.capacity


class Slab:
    """Block of slots of one capacity.

    Attributes:
        keys: for each layer a tensor (slots, capacity, heads, key size).
        values: for each layer a tensor (slots, capacity, heads, value size).
        key_addresses, value_addresses: memory address of each layer's tensor, shape (layers,).
        slots: the slots in use, each at its own index.
    """

    def __init__(self, layers: Sequence[LayerShape], size: int, capacity: int) -> None:
        self.capacity = capacity
        self.size = size
        self.slots: list[CacheSlot] = []
        # Layers of equal shape share one tensor, so that a slot is cleared or copied in one operation.
        self._stacks: list[torch.Tensor] = []
        self.keys = self._allocate_stacks([(s.heads, s.key_size, s.dtype, s.device) for s in layers])
        self.values = self._allocate_stacks([(s.heads, s.value_size, s.dtype, s.device) for s in layers])
        self.key_addresses = np.array([keys.data_ptr() for keys in self.keys])
        self.value_addresses = np.array([values.data_ptr() for values in self.values])

    def _allocate_stacks(self, shapes: Sequence[_Shape]) -> list[torch.Tensor]:
        layers_by_shape: defaultdict[_Shape, list[int]] = defaultdict(list)
        for layer, shape in enumerate(shapes):
            layers_by_shape[shape].append(layer)
        tensors: dict[int, torch.Tensor] = {}
        for (heads, width, dtype, device), indices in layers_by_shape.items():
            # A slot is cleared when it is allocated: clearing all of them here would cost more time than two tokens.
            stack = torch.empty(len(indices), self.size, self.capacity, heads, width, dtype=dtype, device=device)
            self._stacks.append(stack)
            tensors.update(zip(indices, stack, strict=True))
        return [tensors[layer] for layer in range(len(shapes))]

    @property
    def tokens(self) -> int:
        """Size of the slab in tokens."""
        return self.size * self.capacity

    def add(self, length: int = 0) -> CacheSlot:
        """Allocate the next free slot and clear it from token `length` on.

        The caller copies the first `length` tokens into the slot.
        """
        slot = CacheSlot(self, len(self.slots))
        self._clear(slot.index, length)
        self.slots.append(slot)
        return slot

    def remove(self, slot: CacheSlot) -> None:
        """Free a slot; the last one moves into the gap."""
        last = self.slots.pop()
        if last is not slot:
            self.copy(slot.index, last, last.length)
            last.index = slot.index
            self.slots[slot.index] = last
            self._clear(last.index, last.length)

    def _clear(self, index: int, start: int) -> None:
        """Set a slot to zero from token `start` on.

        Attention masks these tokens, but a NaN left by a sequence that overflowed would pass through the mask.
        """
        for stack in self._stacks:
            stack[:, index, start:] = 0

    def copy(self, index: int, source: CacheSlot, length: int) -> None:
        """Copy the first `length` tokens of another slot of the same layers to the slot at `index`."""
        for mine, theirs in zip(self._stacks, source.slab._stacks, strict=True):
            mine[:, index, :length] = theirs[:, source.index, :length]


def _allocate_slab(layers: Sequence[LayerShape], size: int, capacity: int) -> Slab | None:
    """Create a slab; return None if the system has less memory than expected."""
    try:
        return Slab(layers, size, capacity)
    except (RuntimeError, MemoryError):  # on a CPU torch raises a plain RuntimeError
        logger.warning("KV cache: out of memory for %d sequences of %d tokens", size, capacity, exc_info=True)
        return None


class KVCache:
    """Cache of keys and values, made of slabs.

    Args:
        budget: tokens that all slabs together may hold.
        slab_tokens: size of a new slab in tokens, where the budget allows.
        max_rows: the most slots of a slab.
        max_length: the longest sequence in tokens.
    """

    def __init__(
        self, layers: Sequence[LayerShape], *, budget: int, slab_tokens: int, max_rows: int, max_length: int
    ) -> None:
        self.budget = budget
        self.slabs: list[Slab] = []
        self._layers = layers
        self._slab_tokens = slab_tokens
        self._max_rows = max_rows
        self.max_length = min(max_length, budget)

    @property
    def tokens(self) -> int:
        """Size of all slabs in tokens."""
        return sum(slab.tokens for slab in self.slabs)

    def choose_capacity(self, tokens: int) -> int:
        """Return the capacity of a slot for a sequence of `tokens`."""
        return min(max(_MIN_CAPACITY, 1 << (tokens - 1).bit_length()), self.max_length)

    def allocate(self, tokens: int) -> CacheSlot | None:
        """Allocate a slot for `tokens`; return None if there is no memory for it now.

        Args:
            tokens: at most `budget` and `max_length`.
        """
        capacity = self.choose_capacity(tokens)
        assert tokens <= capacity, f"this is a bug: {tokens} tokens were admitted where {capacity} fit"
        slab = next((s for s in self.slabs if s.capacity == capacity and len(s.slots) < s.size), None)
        if slab is None:
            slab = self._new_slab(capacity)
        if slab is None:
            larger = [s for s in self.slabs if s.capacity > capacity and len(s.slots) < s.size]
            slab = min(larger, key=lambda s: s.capacity, default=None)
        return slab.add() if slab is not None else None

    def _new_slab(self, capacity: int) -> Slab | None:
        """Create a slab as large as the budget allows; return None if it allows none.

        A small budget is split into several slabs, so that sequences of other lengths find a slot as well.
        """
        room = min(self._slab_tokens, self.budget // _MIN_SLABS, self.budget - self.tokens)
        size = min(max(room // capacity, 1), self._max_rows)
        if self.tokens + size * capacity > self.budget:
            return None
        slab = _allocate_slab(self._layers, size, capacity)
        if slab is not None:
            self.slabs.append(slab)
        return slab

    def clear(self) -> None:
        """Drop all slabs; their slots must not be used any more."""
        self.slabs.clear()

    def grow(self, slot: CacheSlot, tokens: int) -> bool:
        """Move a sequence to a slot for `tokens`; return False if there is no memory for it now."""
        moved = self.allocate(tokens)
        if moved is None:
            return False
        moved.slab.copy(moved.index, slot, slot.length)
        old = CacheSlot(slot.slab, slot.index)
        slot.slab.slots[slot.index] = old
        slot.slab, slot.index = moved.slab, moved.index
        slot.slab.slots[slot.index] = slot
        self.free(old)
        return True

    def copy_out(self, slot: CacheSlot) -> CacheSlot | None:
        """Copy a sequence to a slab of exactly its length; return None without memory for it."""
        if self.tokens + slot.length > self.budget:
            return None
        slab = _allocate_slab(self._layers, 1, slot.length)
        if slab is None:
            return None
        self.slabs.append(slab)
        copied = slab.add(slot.length)
        slab.copy(copied.index, slot, slot.length)
        copied.length = slot.length
        return copied

    def free(self, slot: CacheSlot) -> None:
        """Free a slot, and the memory of its slab if that is empty now."""
        slot.slab.remove(slot)
        if not slot.slab.slots:
            self.slabs.remove(slot.slab)

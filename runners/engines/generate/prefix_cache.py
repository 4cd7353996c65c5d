"""Prefix caching: a system prompt or an earlier chat that prompts share is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runners.engines.generate.cache import CacheSlot, KVCache

#: The shortest prefix in tokens that is worth a search.
MIN_PREFIX = 16

#: Share of the KV cache's budget for finished sequences; running sequences can evict them at any time.
_SHARE = 0.25


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix in tokens; 0 if it is shorter than `MIN_PREFIX`."""
    if one[:MIN_PREFIX] != other[:MIN_PREFIX] or min(len(one), len(other)) < MIN_PREFIX:
        return 0
    low, high = MIN_PREFIX, min(len(one), len(other))
    while low < high:  # comparing slices is faster than comparing tokens
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class PrefixCache:
    """Cache of the keys and values of finished sequences, the most recently used last."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._max_tokens = int(_SHARE * cache.budget)
        self._entries: list[tuple[list[int], CacheSlot]] = []

    def store(self, ids: list[int], slot: CacheSlot) -> None:
        """Store a copy of a sequence's computed tokens; drop entries that are a prefix of it."""
        ids = ids[: slot.length]
        if not MIN_PREFIX <= len(ids) <= self._max_tokens or any(
            stored[: len(ids)] == ids for stored, _ in self._entries
        ):
            return
        for stored, _ in list(self._entries):
            if ids[: len(stored)] == stored:
                self._drop(stored)
        while self._entries and self._tokens + len(ids) > self._max_tokens:
            self._drop(self._entries[0][0])
        if (copied := self._cache.copy_out(slot)) is not None:
            self._entries.append((ids, copied))

    def find(self, ids: list[int]) -> tuple[CacheSlot, int] | None:
        """Return the slot with the longest prefix of a sequence, and the prefix's length."""
        found = find_longest_prefix(ids, self._entries)
        if found is not None:
            index = next(i for i, (_, slot) in enumerate(self._entries) if slot is found[0])
            self._entries.append(self._entries.pop(index))
        return found

    def clear(self) -> None:
        """Drop all entries; the caller clears the KV cache as well."""
        self._entries.clear()

    def evict_oldest(self) -> bool:
        """Drop the least recently used entry; return False if there is none."""
        if not self._entries:
            return False
        self._drop(self._entries[0][0])
        return True

    @property
    def _tokens(self) -> int:
        return sum(len(ids) for ids, _ in self._entries)

    def _drop(self, ids: list[int]) -> None:
        index = next(i for i, (stored, _) in enumerate(self._entries) if stored is ids)
        self._cache.free(self._entries.pop(index)[1])


def find_longest_prefix(
    ids: list[int], candidates: Iterable[tuple[Sequence[int], CacheSlot]]
) -> tuple[CacheSlot, int] | None:
    """Return the candidate with the longest computed prefix, and the prefix's length.

    The last token never counts: it must be computed to get the next one.
    """
    best = None
    for other, slot in candidates:
        length = common_prefix_length(ids[:-1], other[: slot.length])
        if length and (best is None or length > best[1]):
            best = slot, length
    return best

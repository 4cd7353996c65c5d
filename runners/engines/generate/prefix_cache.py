"""Beginnings that prompts share, so that a system prompt or a chat so far is read once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runners.engines.generate.cache import CacheSlot, KVCache

#: A shared beginning shorter than this is not worth the search.
LEAST_SHARED = 16


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens with which both begin; 0 if they are too few to matter."""
    if one[:LEAST_SHARED] != other[:LEAST_SHARED] or min(len(one), len(other)) < LEAST_SHARED:
        return 0
    low, high = LEAST_SHARED, min(len(one), len(other))
    while low < high:  # slices are compared faster than tokens
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class PrefixCache:
    """Keys and values of sequences that have ended, the most recently used last.

    Args:
        share: of the cache's budget that they may take; they make room for running ones at any time.
    """

    def __init__(self, cache: KVCache, share: float = 0.25) -> None:
        self._cache = cache
        self._most = int(share * cache.budget)
        self._kept: list[tuple[list[int], CacheSlot]] = []

    def keep(self, ids: list[int], slot: CacheSlot) -> None:
        """Keep what was read of a sequence, in place of what is a part of it."""
        ids = ids[: slot.length]
        if not LEAST_SHARED <= len(ids) <= self._most or any(kept[: len(ids)] == ids for kept, _ in self._kept):
            return
        for kept, _ in list(self._kept):
            if ids[: len(kept)] == kept:
                self._drop(kept)
        while self._kept and self._tokens + len(ids) > self._most:
            self._drop(self._kept[0][0])
        if (copied := self._cache.copy_out(slot)) is not None:
            self._kept.append((ids, copied))

    def find(self, ids: list[int]) -> tuple[CacheSlot, int] | None:
        """The place with the longest beginning of a sequence, and the beginning's length."""
        found = longest(ids, self._kept)
        if found is not None:
            at = next(i for i, (_, slot) in enumerate(self._kept) if slot is found[0])
            self._kept.append(self._kept.pop(at))
        return found

    def clear(self) -> None:
        """Forget everything; the cache is cleared too."""
        self._kept.clear()

    def make_room(self) -> bool:
        """Give up what was not used for longest; False if there is nothing left."""
        if not self._kept:
            return False
        self._drop(self._kept[0][0])
        return True

    @property
    def _tokens(self) -> int:
        return sum(len(ids) for ids, _ in self._kept)

    def _drop(self, ids: list[int]) -> None:
        at = next(i for i, (kept, _) in enumerate(self._kept) if kept is ids)
        self._cache.free(self._kept.pop(at)[1])


def longest(ids: list[int], candidates: Iterable[tuple[Sequence[int], CacheSlot]]) -> tuple[CacheSlot, int] | None:
    """The candidate that has read the longest beginning of a sequence, whose last token must always be read."""
    best = None
    for other, slot in candidates:
        length = shared(ids[:-1], other[: slot.length])
        if length and (best is None or length > best[1]):
            best = slot, length
    return best

"""How many threads compute what is computed alone, as the machine is at the moment."""

from __future__ import annotations

from collections import deque
from statistics import median

#: After so many passes the other number is tried, to see whether the machine has changed. A try that changes nothing
#: doubles that, up to the second number where one thread is tried, and to the third where all are.
_TRY_AFTER, _TRY_ONE_AFTER, _TRY_ALL_AFTER = 32, 256, 64

#: Passes of a try. Their median is what a pass costs: one that somebody disturbed says nothing of the next.
_TRIES = 3

#: Passes that are remembered.
_REMEMBERED = 5

#: What a pass costs beside its tokens, in tokens; so that short and long ones can be compared.
_OVERHEAD = 16


class ThreadChoice:
    """Chooses between one thread and all, by what either took lately.

    Threads that compute together wait for each other after every operation. Where the cores are theirs that is soon,
    and all of them are up to twice as fast as one. Where another program computes too, each wait may last for its
    share of the time, and one thread alone is several times faster.
    """

    def __init__(self, every: int) -> None:
        """
        Args:
            every: all threads.
        """
        self.every = every
        self._passes: dict[int, deque[float]] = {n: deque(maxlen=_REMEMBERED) for n in {every, 1}}
        self._best = every
        self._since = 0
        self._patience = _TRY_AFTER

    def choose(self) -> int:
        """The number of threads for the next pass."""
        if self.every == 1:
            return 1
        other = 1 if self._best != 1 else self.every
        for threads in (self._best, other):
            if len(self._passes[threads]) < _TRIES:
                return threads
        if median(self._passes[other]) < median(self._passes[self._best]):
            self._best, other = other, self._best
            self._since, self._patience = 0, _TRY_AFTER
        self._since += 1
        if self._since <= self._patience:
            return self._best
        self._since = 0
        self._patience = min(2 * self._patience, _TRY_ONE_AFTER if other == 1 else _TRY_ALL_AFTER)
        # What was learnt of it is old: it says nothing any more.
        self._passes[other].clear()
        return other

    def learn(self, threads: int, tokens: int, seconds: float) -> None:
        """Take note of what a pass has taken."""
        self._passes[threads].append(seconds / (tokens + _OVERHEAD))

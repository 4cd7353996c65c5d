"""How many threads compute what is computed alone, as the machine is at the moment."""

from __future__ import annotations

from collections import deque
from statistics import median

#: After so many choices the other number is tried, to see whether the machine has changed: seldom while all threads
#: serve best, so that few wait longer; sooner while one does, as others may have left.
_TRY_ONE_AFTER, _TRY_ALL_AFTER = 256, 32

#: Passes that are remembered. Their median is what a pass costs: one that somebody disturbed says nothing of the next.
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
        self._passes: dict[int, deque[float]] = {}
        self._since = 0
        self._trying = False

    def choose(self) -> int:
        """The number of threads for the next pass."""
        if self.every == 1 or self.every not in self._passes:
            return self.every
        if 1 not in self._passes:
            return 1
        best = min(self._passes, key=lambda threads: median(self._passes[threads]))
        self._since += 1
        self._trying = self._since >= (_TRY_ONE_AFTER if best != 1 else _TRY_ALL_AFTER)
        if self._trying:
            self._since = 0
            return 1 if best != 1 else self.every
        return best

    def learn(self, threads: int, tokens: int, seconds: float) -> None:
        """Take note of what a pass has taken."""
        # What was learnt of the one that is tried is old: it says nothing any more.
        if self._trying or threads not in self._passes:
            self._passes[threads] = deque(maxlen=_REMEMBERED)
        self._trying = False
        self._passes[threads].append(seconds / (tokens + _OVERHEAD))

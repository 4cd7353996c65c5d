"""Choice between one thread and all threads from recent timings."""

from __future__ import annotations

from collections import deque
from statistics import median

#: Passes after which the other number of threads is tried again, because the load of the machine may have changed. Each
#: try that changes nothing doubles the interval, up to the second value for one thread and the third for all threads.
_TRY_AFTER, _MAX_TRY_ONE_AFTER, _MAX_TRY_ALL_AFTER = 32, 256, 64

#: Passes per try. Their median is used, because another program may slow a single pass down.
_TRIES = 3

#: Number of recent passes whose timings are kept.
_HISTORY = 5

#: Fixed cost of a pass, in tokens. It makes timings of short and long passes comparable.
_OVERHEAD = 16


class ThreadChoice:
    """Choice of one thread or all threads for the next forward pass.

    The threads of a pass wait for each other after every operation. On idle cores these waits are short, and all
    threads are up to twice as fast as one. If another program uses the cores, each wait can last for that program's
    time slice, and one thread is several times faster.
    """

    def __init__(self, all_threads: int) -> None:
        """
        Args:
            all_threads: number of threads when all of them compute.
        """
        self.all_threads = all_threads
        self._timings: dict[int, deque[float]] = {n: deque(maxlen=_HISTORY) for n in {all_threads, 1}}
        self._best = all_threads
        self._passes_since_try = 0
        self._interval = _TRY_AFTER

    def choose(self) -> int:
        """Return the number of threads for the next pass."""
        if self.all_threads == 1:
            return 1
        other = 1 if self._best != 1 else self.all_threads
        for threads in (self._best, other):
            if len(self._timings[threads]) < _TRIES:
                return threads
        if median(self._timings[other]) < median(self._timings[self._best]):
            self._best, other = other, self._best
            self._passes_since_try, self._interval = 0, _TRY_AFTER
        self._passes_since_try += 1
        if self._passes_since_try <= self._interval:
            return self._best
        self._passes_since_try = 0
        self._interval = min(2 * self._interval, _MAX_TRY_ONE_AFTER if other == 1 else _MAX_TRY_ALL_AFTER)
        # The old timings say nothing about the current load of the machine.
        self._timings[other].clear()
        return other

    def learn(self, threads: int, tokens: int, seconds: float) -> None:
        """Record the duration of a pass."""
        self._timings[threads].append(seconds / (tokens + _OVERHEAD))

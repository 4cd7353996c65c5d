"""Timing of several cases within a time limit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Generic, TypeVar

CaseT = TypeVar("CaseT", bound=Hashable)

#: Share of the cores' time that this process must get; with less, other processes distort the timings.
_MIN_CPU_SHARE = 0.75

#: Maximum number of rounds; more do not improve the minimum times.
_ROUNDS = 5


@dataclass
class Stopwatch(Generic[CaseT]):
    """Stopwatch that times cases in rounds.

    So a short load on the machine does not affect one case only.

    Attributes:
        seconds: time limit for all cases. A case that is expected to exceed it is not started.
        clock: returns the current time in seconds.
        best: shortest time of each measured case, in seconds.
    """

    seconds: float
    clock: Callable[[], float] = perf_counter
    best: dict[CaseT, float] = field(default_factory=dict)

    def measure(self, cases: Iterable[CaseT], compute: Callable[[CaseT], None], cost: Callable[[CaseT], float]) -> None:
        """Time the cases and store the shortest time of each in `best`.

        Args:
            cases: cases by ascending cost.
            compute: computes a case. On `MemoryError`, this case and all later ones are dropped.
            cost: returns the cost of a case in any unit, from which its time is estimated.
        """
        cases = list(cases)
        end = self.clock() + self.seconds
        for _ in range(_ROUNDS):
            for case in list(cases):
                started = self.clock()
                if started + self._estimate_seconds(case, cost) > end:
                    break
                try:
                    compute(case)
                except MemoryError:
                    cases = cases[: cases.index(case)]
                    break
                took = self.clock() - started
                # The minimum, because the first run allocates memory and compiles, and other load only adds time.
                self.best[case] = min(took, self.best.get(case, took))

    def _estimate_seconds(self, case: CaseT, cost: Callable[[CaseT], float]) -> float:
        """Return the best time of a case, or scale that of the costliest measured case by cost."""
        if case in self.best or not self.best:
            return self.best.get(case, 0.0)
        costliest = max(self.best, key=cost)
        return self.best[costliest] * cost(case) / cost(costliest)


@dataclass
class CpuShare:
    """Share of the cores' time that this process got.

    Attributes:
        too_small: whether other processes used so much of it that the timings are not valid.
    """

    too_small: bool = False


@contextmanager
def watch_cpu_share(cores: int | None) -> Iterator[CpuShare]:
    """Measure the share of CPU time that this process gets while the body runs.

    Args:
        cores: number of cores that the body uses; None if a GPU computes, then the share is never too small.
    """
    share = CpuShare()
    started, cpu_started = perf_counter(), process_time()
    yield share
    busy_cores = (process_time() - cpu_started) / (perf_counter() - started)
    share.too_small = cores is not None and busy_cores < _MIN_CPU_SHARE * cores

"""Takes times until there is no more time to take them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Generic, TypeVar

CaseT = TypeVar("CaseT", bound=Hashable)

#: The part of the cores that must have been ours; with less, others were measured as well.
_OWN_SHARE = 0.75

#: Rounds after which more of them tell nothing new.
_ROUNDS = 5


@dataclass
class Stopwatch(Generic[CaseT]):
    """Measures cases in turns, so that a busy moment of the machine does not meet one of them alone.

    Attributes:
        seconds: that all of it may take. A case that would not be done by then is not begun.
        best: the shortest time of each case that was measured.
    """

    seconds: float
    clock: Callable[[], float] = perf_counter
    best: dict[CaseT, float] = field(default_factory=dict)

    def measure(self, cases: Iterable[CaseT], compute: Callable[[CaseT], None], cost: Callable[[CaseT], float]) -> None:
        """Take times of cases.

        Args:
            cases: the cheapest first.
            compute: what is timed. `MemoryError` ends the cases from there on.
            cost: of a case in any unit, to foresee what it takes from what the others took.
        """
        cases = list(cases)
        end = self.clock() + self.seconds
        for _ in range(_ROUNDS):
            for case in list(cases):
                started = self.clock()
                if started + self._foreseen(case, cost) > end:
                    break
                try:
                    compute(case)
                except MemoryError:
                    cases = cases[: cases.index(case)]
                    break
                took = self.clock() - started
                # The shortest: the first one has found memory and made code, and others only ever slow it down.
                self.best[case] = min(took, self.best.get(case, took))

    def _foreseen(self, case: CaseT, cost: Callable[[CaseT], float]) -> float:
        """As long as the last time, or as its cost says beside the costliest that was measured."""
        if case in self.best or not self.best:
            return self.best.get(case, 0.0)
        costliest = max(self.best, key=cost)
        return self.best[costliest] * cost(case) / cost(costliest)


@dataclass
class OwnShare:
    """How much of the processors this process had.

    Attributes:
        too_small: so little that others were measured as well.
    """

    too_small: bool = False


@contextmanager
def own_share(cores: int | None) -> Iterator[OwnShare]:
    """Watch, while the body computes with so many cores, what of them it gets; None is not watched: a GPU computes."""
    share = OwnShare()
    started, worked = perf_counter(), process_time()
    yield share
    busy = (process_time() - worked) / (perf_counter() - started)
    share.too_small = cores is not None and busy < _OWN_SHARE * cores

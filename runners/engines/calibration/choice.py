"""From what was measured to what is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: A larger batch makes everybody in it wait longer, so it must bring more than this.
_WORTH = 0.02

#: A machine is never quite still: lanes that are less than this much faster may be no faster.
_CLEARLY = 0.05


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one arrangement has computed in one go.

    Attributes:
        lanes: batches that were computed side by side.
        threads: of each lane; None leaves the number as it is.
        rows: in each batch.
        tokens: of all rows of all lanes.
        seconds: until the last lane was done; the shortest of several times, as others only ever slow it down.
    """

    lanes: int
    threads: int | None
    rows: int
    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    def has_lanes_of(self, other: Measurement) -> bool:
        """Whether as many batches were computed side by side, with as many threads each."""
        return (self.lanes, self.threads) == (other.lanes, other.threads)


def most_worthwhile(measured: Sequence[Measurement], usual: Measurement) -> Measurement:
    """The fewest rows that are nearly as fast as any, in lanes as they are usual unless others are clearly faster.

    Args:
        measured: of equal arrangements, the one with fewer rows is first.
        usual: one of them, what is done where nothing is measured.
    """
    best = max((one for one in measured if one.has_lanes_of(usual)), key=_speed)
    fastest = max(measured, key=_speed)
    if fastest.speed >= (1 + _CLEARLY) * best.speed:
        best = fastest
    return next(one for one in measured if one.has_lanes_of(best) and one.speed >= (1 - _WORTH) * best.speed)


def _speed(one: Measurement) -> float:
    return one.speed


def quickest_alone(measured: Sequence[Measurement]) -> int | None:
    """The number of threads that has a single row done first; of equally quick ones, the fewest."""
    alone = [one for one in measured if one.lanes == one.rows == 1]
    if not alone:
        return None
    least = min(one.seconds for one in alone)
    return min(one.threads or 0 for one in alone if one.seconds <= (1 + _WORTH) * least) or None

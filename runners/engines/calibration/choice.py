"""Choice of a configuration from measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Relative gain in speed that justifies a larger batch, whose items all wait longer.
_MIN_GAIN_BY_ROWS = 0.02

#: Relative gain in speed that justifies another number of workers; smaller differences may be noise.
_MIN_GAIN_BY_WORKERS = 0.05


@dataclass(frozen=True, slots=True)
class Measurement:
    """Timing of one configuration.

    Attributes:
        workers: batches computed in parallel.
        threads: threads per worker; None keeps the current number.
        rows: rows per batch.
        tokens: tokens of all rows of all workers.
        seconds: time until the last worker finished; the minimum of several runs, because other load on the machine
            only makes a run slower.
    """

    workers: int
    threads: int | None
    rows: int
    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds

    def has_same_workers(self, other: Measurement) -> bool:
        """Return whether the numbers of workers and of threads per worker are equal."""
        return (self.workers, self.threads) == (other.workers, other.threads)


def choose_measurement(measured: Sequence[Measurement], usual: Measurement) -> Measurement:
    """Return the fewest rows that are nearly as fast as the best.

    The default workers and threads are kept unless others are clearly faster.

    Args:
        measured: measurements; with equal workers and threads, the one with fewer rows is first.
        usual: the measurement of the default configuration, which is one of them.
    """
    best = max((one for one in measured if one.has_same_workers(usual)), key=_speed_of)
    fastest = max(measured, key=_speed_of)
    if fastest.speed >= (1 + _MIN_GAIN_BY_WORKERS) * best.speed:
        best = fastest
    min_speed = (1 - _MIN_GAIN_BY_ROWS) * best.speed
    return next(one for one in measured if one.has_same_workers(best) and one.speed >= min_speed)


def _speed_of(one: Measurement) -> float:
    return one.speed


def choose_threads_alone(measured: Sequence[Measurement]) -> int | None:
    """Return the fewest threads that are nearly the fastest for a single row.

    Returns:
        None if no single row was measured with one worker, or the threads were not set.
    """
    alone = [one for one in measured if one.workers == one.rows == 1]
    if not alone:
        return None
    least = min(one.seconds for one in alone)
    return min(one.threads or 0 for one in alone if one.seconds <= (1 + _MIN_GAIN_BY_ROWS) * least) or None

"""Promise: cases are timed by turns within the given time, and the shortest time counts."""

from __future__ import annotations

import pytest

from runners.engines.calibration import stopwatch
from runners.engines.calibration.stopwatch import Stopwatch, watch_cpu_share


class _Machine:
    """Machine that computes each case with the durations of its own list."""

    def __init__(self, seconds: dict[int, list[float]]) -> None:
        self.now = 0.0
        self.computed: list[int] = []
        self._seconds = seconds

    def clock(self) -> float:
        return self.now

    def compute(self, case: int) -> None:
        self.computed.append(case)
        times = self._seconds[case]
        self.now += times.pop(0) if len(times) > 1 else times[0]
        if self.now < 0:
            raise MemoryError


def _measure(machine: _Machine, seconds: float) -> dict[int, float]:
    watch: Stopwatch[int] = Stopwatch(seconds, machine.clock)
    watch.measure([1, 2, 4], machine.compute, float)
    return {case: round(took, 6) for case, took in watch.best.items()}


def test_cases_take_turns_and_the_shortest_time_of_each_counts() -> None:
    machine = _Machine({1: [3.0, 1.0], 2: [2.0], 4: [4.0, 3.0, 5.0]})
    assert _measure(machine, 1000) == {1: 1.0, 2: 2.0, 4: 3.0}
    assert machine.computed == [1, 2, 4] * 5


def test_no_measurement_starts_that_would_exceed_the_given_time() -> None:
    machine = _Machine({1: [1.0], 2: [2.0], 4: [4.0]})
    assert _measure(machine, 6.5) == {1: 1.0, 2: 2.0}
    assert machine.now <= 6.5
    assert 4 not in machine.computed


def test_running_out_of_memory_ends_only_the_larger_cases() -> None:
    machine = _Machine({1: [1.0], 2: [-1000.0], 4: [4.0]})
    assert _measure(machine, 1e6) == {1: 1.0}
    assert 4 not in machine.computed


@pytest.mark.parametrize(
    ("cores", "computed", "too_small"),
    [(1, 9.0, False), (1, 5.0, True), (2, 9.0, True), (2, 18.0, False), (None, 0.0, False)],
)
def test_a_busy_machine_is_detected(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, computed: float, too_small: bool
) -> None:
    passed, worked = iter([0.0, 10.0]), iter([0.0, computed])
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: next(passed))
    monkeypatch.setattr(stopwatch, "process_time", lambda: next(worked))
    with watch_cpu_share(cores) as share:
        pass
    assert share.too_small is too_small

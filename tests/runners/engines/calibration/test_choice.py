"""Promise: calibration chooses the fastest worthwhile plan and ignores small differences."""

from __future__ import annotations

from runners.engines.calibration.choice import Measurement, choose_measurement, choose_threads_alone


def _measured(workers: int, threads: int, rows: int, speed: float) -> Measurement:
    tokens = 10 * workers * rows
    return Measurement(workers, threads, rows, tokens, tokens / speed)


def test_the_fewest_rows_that_are_nearly_as_fast_are_enough() -> None:
    measured = [_measured(1, 2, rows, speed) for rows, speed in ((1, 100), (2, 170), (4, 196), (8, 200), (16, 199))]
    assert choose_measurement(measured, measured[0]).rows == 4


def test_the_default_workers_stay_unless_others_are_clearly_faster() -> None:
    usual, other = _measured(2, 1, 8, 100), _measured(1, 2, 8, 103)
    assert choose_measurement([usual, other], usual) == usual
    faster = _measured(1, 2, 8, 120)
    assert choose_measurement([usual, faster], usual) == faster


def test_the_default_workers_may_get_fewer_rows() -> None:
    few, usual, other = _measured(2, 1, 4, 98), _measured(2, 1, 8, 100), _measured(1, 2, 4, 103)
    assert choose_measurement([few, other, usual], usual) == few


def test_rows_are_compared_with_the_best_and_not_with_the_default() -> None:
    few, usual, many = _measured(2, 1, 8, 95), _measured(2, 1, 16, 97), _measured(2, 1, 32, 100)
    assert choose_measurement([few, usual, many], usual) == many


def test_a_single_row_uses_the_fewest_threads_that_are_as_fast() -> None:
    assert choose_threads_alone([_measured(1, 1, 1, 100), _measured(1, 4, 1, 101), _measured(1, 2, 4, 300)]) == 1
    assert choose_threads_alone([_measured(1, 1, 1, 100), _measured(1, 4, 1, 200)]) == 4
    assert choose_threads_alone([_measured(2, 1, 1, 100)]) is None

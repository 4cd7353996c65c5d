"""Promise: all threads compute on free cores, one on busy cores, and the choice adapts."""

from __future__ import annotations

from collections import Counter

from runners.engines.batch.thread_choice import ThreadChoice


def _passes(choice: ThreadChoice, number: int, seconds: dict[int, float]) -> Counter[int]:
    """Run that many passes of one token with these durations; count the threads chosen."""
    chosen: Counter[int] = Counter()
    for _ in range(number):
        threads = choice.choose()
        chosen[threads] += 1
        choice.learn(threads, 1, seconds[threads])
    return chosen


def test_all_threads_compute_if_they_are_faster_and_one_is_tried_rarely() -> None:
    choice = ThreadChoice(4)
    assert 3 <= _passes(choice, 100, {4: 1.0, 1: 2.0})[1] <= 15
    assert 3 <= _passes(choice, 1000, {4: 1.0, 1: 2.0})[1] <= 15


def test_one_thread_computes_while_other_processes_keep_the_cores_busy() -> None:
    choice = ThreadChoice(4)
    _passes(choice, 100, {4: 1.0, 1: 2.0})
    busy = _passes(choice, 1000, {4: 9.0, 1: 2.0})
    assert busy[4] < 80
    free = _passes(choice, 1000, {4: 1.0, 1: 2.0})
    assert free[4] > 900


def test_a_wrong_first_choice_is_corrected_after_a_few_passes() -> None:
    choice = ThreadChoice(2)
    _passes(choice, 6, {2: 50.0, 1: 2.0})
    assert _passes(choice, 128, {2: 1.0, 1: 2.0})[2] >= 90


def test_one_disturbed_pass_does_not_change_the_choice() -> None:
    choice = ThreadChoice(2)
    _passes(choice, 200, {2: 1.0, 1: 2.0})
    calm = [choice.choose()]
    choice.learn(2, 1, 50.0)
    calm += list(_passes(choice, 32, {2: 1.0, 1: 2.0}).elements())
    assert calm.count(1) in (0, 3)  # the occasional trial of the other choice


def test_durations_are_compared_per_token() -> None:
    choice = ThreadChoice(2)
    for _ in range(3):
        choice.learn(2, 1000, 10.0)
        choice.learn(1, 10, 0.4)
    assert choice.choose() == 2


def test_with_one_core_the_choice_is_one_thread() -> None:
    choice = ThreadChoice(1)
    assert set(_passes(choice, 600, {1: 1.0})) == {1}

"""Promises of the number of threads: all where the cores are theirs, one where others compute, and back again."""

from __future__ import annotations

from collections import Counter

from runners.engines.batch.thread_choice import ThreadChoice


def _passes(choice: ThreadChoice, number: int, seconds: dict[int, float]) -> Counter[int]:
    """So many passes, each of a token, on a machine where they take so long."""
    chosen: Counter[int] = Counter()
    for _ in range(number):
        threads = choice.choose()
        chosen[threads] += 1
        choice.learn(threads, 1, seconds[threads])
    return chosen


def test_all_threads_compute_where_they_are_faster_and_one_is_tried_seldom() -> None:
    choice = ThreadChoice(4)
    assert 3 <= _passes(choice, 100, {4: 1.0, 1: 2.0})[1] <= 15
    assert 3 <= _passes(choice, 1000, {4: 1.0, 1: 2.0})[1] <= 15


def test_one_thread_computes_where_others_keep_the_cores_busy_and_all_do_again_when_they_have_left() -> None:
    choice = ThreadChoice(4)
    _passes(choice, 100, {4: 1.0, 1: 2.0})
    busy = _passes(choice, 1000, {4: 9.0, 1: 2.0})
    assert busy[4] < 80
    free = _passes(choice, 1000, {4: 1.0, 1: 2.0})
    assert free[4] > 900


def test_who_was_wrong_at_first_is_right_after_a_few_passes() -> None:
    choice = ThreadChoice(2)
    _passes(choice, 6, {2: 50.0, 1: 2.0})
    assert _passes(choice, 128, {2: 1.0, 1: 2.0})[2] >= 90


def test_one_pass_that_was_disturbed_changes_nothing() -> None:
    choice = ThreadChoice(2)
    _passes(choice, 200, {2: 1.0, 1: 2.0})
    calm = [choice.choose()]
    choice.learn(2, 1, 50.0)
    calm += list(_passes(choice, 32, {2: 1.0, 1: 2.0}).elements())
    assert calm.count(1) in (0, 3)  # what is tried now and then


def test_long_and_short_passes_are_told_apart_from_fast_and_slow_ones() -> None:
    choice = ThreadChoice(2)
    for _ in range(3):
        choice.learn(2, 1000, 10.0)
        choice.learn(1, 10, 0.4)
    assert choice.choose() == 2


def test_of_one_core_there_is_nothing_to_choose() -> None:
    choice = ThreadChoice(1)
    assert set(_passes(choice, 600, {1: 1.0})) == {1}

"""Promise: a batch holds the oldest row and rows of similar length, within the limits."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from runners.engines.rows import BatchLimits, Row, select_batch

ROWS = st.lists(st.builds(Row, inputs=st.none(), length=st.integers(1, 50), key=st.sampled_from("ab")), min_size=1)
LIMITS = st.builds(BatchLimits, max_rows=st.integers(1, 8), max_tokens=st.integers(1, 200))


@given(ROWS, LIMITS)
def test_every_batch_keeps_its_limits_and_holds_the_oldest_row(rows: list[Row[None]], limits: BatchLimits) -> None:
    picked = select_batch(rows, limits)
    lengths = [rows[i].length for i in picked]
    assert 0 in picked
    assert len(set(picked)) == len(picked) <= limits.max_rows
    assert {rows[i].key for i in picked} == {rows[0].key}
    assert lengths == sorted(lengths)
    assert len(picked) == 1 or max(lengths) * len(picked) <= limits.max_tokens


@given(ROWS, LIMITS)
def test_no_row_outside_a_batch_lies_between_two_inside_it(rows: list[Row[None]], limits: BatchLimits) -> None:
    picked = select_batch(rows, limits)
    low, high = rows[picked[0]].length, rows[picked[-1]].length
    for i, row in enumerate(rows):
        if i not in picked and row.key == rows[0].key:
            assert not low < row.length < high


def test_the_other_rows_are_chosen_by_length_not_by_arrival() -> None:
    rows = [Row(None, length) for length in (10, 50, 11, 49, 9, 12)]
    assert {rows[i].length for i in select_batch(rows, BatchLimits(4, 1000))} == {9, 10, 11, 12}


def test_a_row_longer_than_the_budget_goes_alone() -> None:
    assert select_batch([Row(None, 500), Row(None, 500)], BatchLimits(8, 100)) == [0]


@given(ROWS, LIMITS)
def test_without_padding_a_batch_is_the_oldest_rows_that_fit(rows: list[Row[None]], limits: BatchLimits) -> None:
    limits = replace(limits, padded=False)
    picked = select_batch(rows, limits)
    alike = [i for i, row in enumerate(rows) if row.key == rows[0].key]
    assert picked == alike[: len(picked)]
    assert 1 <= len(picked) <= limits.max_rows
    assert len(picked) == 1 or sum(rows[i].length for i in picked) <= limits.max_tokens
    if len(picked) < min(limits.max_rows, len(alike)):
        assert sum(rows[i].length for i in alike[: len(picked) + 1]) > limits.max_tokens

"""Promise: answers of servers are compared by their meaning."""

from __future__ import annotations

import pytest

from benchmarks.serving.answers import compared, in_short


def test_another_label_is_a_difference_of_the_expected_ones_probability() -> None:
    figures = compared("classification", [(0, 0.6), (1, 0.9)], [(1, 0.7), (1, 0.9)])
    assert figures["equal_labels"] == 0.5
    assert figures["max_difference"] == pytest.approx(0.3)
    assert figures["mean_difference"] == pytest.approx(0.15)


def test_vectors_are_compared_by_their_direction() -> None:
    figures = compared("embedding", [[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [1.0, 1.0]])
    assert figures["min_cosine"] == pytest.approx(0.5**0.5)
    assert figures["max_difference"] == pytest.approx(0.5**0.5)


def test_texts_are_equal_or_not_for_any_token_counts() -> None:
    figures = compared("generation", [("a", 32), ("b", 32)], [("a", None), ("c", 32)])
    assert in_short("generation", figures) == "50% the same"

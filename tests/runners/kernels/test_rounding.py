"""Promise: rounding is told from another result, for each type by its own measure."""

from __future__ import annotations

import pytest
import torch

from runners.kernels.rounding import is_within_rounding

RIGHT = torch.randn(4, 1000)


def _moved(by: float) -> torch.Tensor:
    """What is off by a part of its size."""
    noise = torch.randn_like(RIGHT)
    return RIGHT + noise * float(by * RIGHT.norm() / noise.norm())


@pytest.mark.parametrize(
    ("dtype", "int8", "rounding", "too_much"),
    [
        (torch.float32, False, 5e-4, 2e-3),
        (torch.float16, False, 0.02, 0.05),
        (torch.bfloat16, False, 0.15, 0.3),
        (torch.float32, True, 0.2, 0.4),
    ],
    ids=str,
)
def test_each_type_may_be_off_by_its_own_rounding(
    dtype: torch.dtype, int8: bool, rounding: float, too_much: float
) -> None:
    assert is_within_rounding([_moved(rounding)], [RIGHT], dtype, int8=int8)
    assert not is_within_rounding([_moved(too_much)], [RIGHT], dtype, int8=int8)


def test_one_of_five_that_is_another_is_no_rounding() -> None:
    right = [*RIGHT, torch.randn(1000)]
    assert not is_within_rounding([*right[:4], torch.randn(1000)], right, torch.bfloat16)


def test_a_number_that_is_largest_may_be_a_third_off_where_the_others_are_not() -> None:
    right = RIGHT.clone()
    right[0, 0] = right.abs().max() * 2
    off = right.clone()
    off[0, 0] *= 4 / 3
    assert is_within_rounding([off], [right], torch.bfloat16)
    assert not is_within_rounding([off], [right], torch.float32)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_what_is_no_number_is_no_rounding(number: float) -> None:
    off = RIGHT.clone()
    off[1, 2] = number
    assert not is_within_rounding([off], [RIGHT], torch.bfloat16)


def test_nothing_is_as_it_should_be_where_nought_is_right() -> None:
    assert is_within_rounding([torch.zeros(3)], [torch.zeros(3)], torch.float32)
    assert not is_within_rounding([torch.ones(3)], [torch.zeros(3)], torch.float32)

"""Promise: differences by rounding are accepted and other differences are not, for each type."""

from __future__ import annotations

import pytest
import torch

from runners.kernels.rounding import is_within_rounding

RIGHT = torch.randn(4, 1000)


def _add_noise(by: float) -> torch.Tensor:
    """Return `RIGHT` with noise of a relative size."""
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
def test_each_type_has_its_own_tolerance(dtype: torch.dtype, int8: bool, rounding: float, too_much: float) -> None:
    assert is_within_rounding([_add_noise(rounding)], [RIGHT], dtype, int8=int8)
    assert not is_within_rounding([_add_noise(too_much)], [RIGHT], dtype, int8=int8)


def test_one_wrong_output_of_five_is_not_rounding() -> None:
    right = [*RIGHT, torch.randn(1000)]
    assert not is_within_rounding([*right[:4], torch.randn(1000)], right, torch.bfloat16)


def test_in_bfloat16_one_large_value_may_differ_by_a_third() -> None:
    right = RIGHT.clone()
    right[0, 0] = right.abs().max() * 2
    off = right.clone()
    off[0, 0] *= 4 / 3
    assert is_within_rounding([off], [right], torch.bfloat16)
    assert not is_within_rounding([off], [right], torch.float32)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_nan_and_infinity_are_not_rounding(number: float) -> None:
    off = RIGHT.clone()
    off[1, 2] = number
    assert not is_within_rounding([off], [RIGHT], torch.bfloat16)


def test_only_zeros_match_expected_zeros() -> None:
    assert is_within_rounding([torch.zeros(3)], [torch.zeros(3)], torch.float32)
    assert not is_within_rounding([torch.ones(3)], [torch.zeros(3)], torch.float32)

"""Promises of shared kernels: every unit is computed, once, by however many threads there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numba import carray

from acceleration import parallel
from acceleration.numbers import row_at
from acceleration.parallel import ParallelKernel, as_float, bits, next_unit


def _add(call: Any) -> None:
    """Add six to each unit's place of a tensor: 1.5 times 4."""
    numbers = carray(call, 5)
    unit = next_unit(call)
    while unit < numbers[1]:
        row_at(numbers[2], unit, 1, np.int64(0))[0] += np.int64(as_float(numbers[3]) * numbers[4])
        unit = next_unit(call)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("openmp", [True, False], ids=["OpenMP", "another library"])
@pytest.mark.parametrize("large", [True, False], ids=["large", "small"])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("units", [0, 1, 1000])
def test_every_unit_is_computed_once(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    threads: Callable[[int], None],
    units: int,
    number: int,
    large: bool,
    openmp: bool,
) -> None:
    if not openmp:
        monkeypatch.setattr(parallel, "parallel_region", lambda: None)
    threads(number)
    places = torch.zeros(1001, dtype=torch.int64)
    kernel = ParallelKernel(_add, tmp_path)
    kernel(units, places.data_ptr(), bits(1.5), 4, large=large)
    assert places.tolist() == [6] * units + [0] * (1001 - units)


def test_pytorch_has_the_openmp_that_threads_are_shared_with() -> None:
    """Here; elsewhere one thread computes."""
    assert parallel.parallel_region() is not None


def test_what_is_kept_is_of_this_version(tmp_path: Path) -> None:
    folder = parallel.kept_in(tmp_path)
    assert folder.parent == tmp_path
    assert folder == parallel.kept_in(tmp_path)

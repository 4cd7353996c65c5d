"""Promises of parallel kernels: every unit is computed exactly once, by any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from runners.kernels import parallel
from runners.kernels.compiler import Compiler
from runners.kernels.kernel_source import KernelSource
from runners.kernels.parallel import encode_float
from tests.runners.kernels.compiled import FOLDER


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
    threads: Callable[[int], None],
    units: int,
    number: int,
    large: bool,
    openmp: bool,
) -> None:
    if not openmp:
        monkeypatch.setattr(parallel, "find_parallel_region", lambda: None)
    threads(number)
    values = torch.zeros(1001, dtype=torch.int64)
    # A kernel looks for OpenMP when it is created.
    kernel = Compiler(FOLDER).get_kernel(KernelSource("tests.runners.kernels.sources:add_product"))
    kernel(units, values.data_ptr(), encode_float(1.5), 4, large=large)
    assert values.tolist() == [6] * units + [0] * (1001 - units)


def test_pytorch_uses_gnu_openmp() -> None:
    """With another OpenMP, one thread would compute."""
    assert parallel.find_parallel_region() is not None

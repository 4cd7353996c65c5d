"""Promises of programs: kernels and Python functions run in order, with the arguments of each run."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from runners.kernels import program
from runners.kernels.compiler import Compiler
from runners.kernels.host_cpu import supports_tiles
from runners.kernels.instructions import supports_int8
from runners.kernels.int8 import OneDnnInt8Linear, VnniInt8Linear
from runners.kernels.int8_kernels import Int8Kernels
from runners.kernels.kernel_source import KernelSource
from runners.kernels.packed import TiledForm
from runners.kernels.parallel import ParallelKernel
from runners.kernels.program import (
    ROW_COUNT,
    KernelCall,
    Program,
    ProgramRunner,
    RunElement,
    RunValue,
    Scratch,
    ValueFromRows,
)
from runners.kernels.program_builder import build_linear_calls
from tests.runners.kernels.compiled import COMPILER, get_float32_kernels, get_int8_kernels

_ADD_ONE = KernelSource("tests.runners.kernels.sources:add_constant", (1,))


@pytest.fixture(scope="module")
def append_digit() -> ParallelKernel:
    return COMPILER.get_kernel(KernelSource("tests.runners.kernels.sources:append_digit"))


def test_kernel_calls_and_python_functions_run_in_order(append_digit: ParallelKernel) -> None:
    numbers = torch.zeros(1, dtype=torch.int64)

    def python_part(digit: int) -> Callable[[int, str], None]:
        def add(rows: int, context: str) -> None:
            assert (rows, context) == (7, "this run")
            numbers.mul_(10).add_(digit)

        return add

    def kernel_part(digit: int) -> KernelCall:
        return KernelCall(append_digit, 1, (numbers.data_ptr(), 0, digit))

    parts: list[Any] = [python_part(1), kernel_part(2), kernel_part(3), python_part(4), python_part(5), kernel_part(6)]
    tested = Program(parts, ProgramRunner(COMPILER))
    tested.run(7, {}, "this run")
    assert numbers.item() == 123456
    tested.run(7, {}, "this run")
    assert numbers.item() == 123456123456


def test_each_run_sets_its_own_arguments(append_digit: ParallelKernel) -> None:
    numbers = torch.zeros(4, dtype=torch.int64)
    twice = ValueFromRows("twice", lambda rows: 2 * rows)
    tested = Program(
        [
            KernelCall(append_digit, 1, (RunValue("numbers"), 0, ROW_COUNT)),
            KernelCall(append_digit, 1, (RunValue("numbers", 8), 0, twice)),
            KernelCall(append_digit, 1, (RunValue("numbers"), 2, RunElement("each", 1))),
            KernelCall(append_digit, 1, (RunValue("numbers", 8), 2, RunElement("each", 0))),
        ],
        ProgramRunner(COMPILER),
    )
    values: dict[Hashable, Any] = {"numbers": numbers.data_ptr(), "each": np.array([5, 6])}
    tested.run(3, values, None)
    assert numbers.tolist() == [3, 6, 6, 5]
    tested.run(4, {**values, "each": np.array([7, 8])}, None)
    assert numbers.tolist() == [34, 68, 68, 57]


@pytest.mark.parametrize("openmp", [True, False], ids=["OpenMP", "another library"])
@pytest.mark.parametrize("large", [0, 1])
def test_every_unit_of_a_program_is_computed_once(monkeypatch: pytest.MonkeyPatch, large: int, openmp: bool) -> None:
    if not openmp:
        monkeypatch.setattr(program, "find_parallel_region", lambda: None)
    values = torch.zeros(1001, dtype=torch.int64)
    tested = Program(
        [KernelCall(COMPILER.get_kernel(_ADD_ONE), ROW_COUNT, (values.data_ptr(),), large)] * 3, ProgramRunner(COMPILER)
    )
    tested.run(1000, {}, None)
    assert values.tolist() == [3] * 1000 + [0]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("rows", [1, 3, 16, 40])
@pytest.mark.parametrize("form", ["tiles", "int8"])
@torch.inference_mode()
def test_layers_in_a_program_compute_the_same(form: str, rows: int, bias: bool) -> None:
    plain = nn.Linear(64, 96, bias=bias)
    layer: nn.Module
    if form == "tiles":
        if not supports_tiles():
            pytest.skip("this CPU has no AVX2")
        layer = TiledForm(get_float32_kernels())(plain.weight, plain.bias)
    else:
        if not Int8Kernels.is_supported():
            pytest.skip("this CPU has no AVX-512 VNNI")
        layer = VnniInt8Linear(plain.weight, plain.bias, get_int8_kernels())
    scratch = Scratch(40)
    inputs, outputs = (scratch.get_rows(name, width, torch.float32) for name, width in (("in", 64), ("out", 96)))
    inputs.normal_()
    outputs.fill_(torch.nan)
    calls = build_linear_calls(layer, inputs, outputs, scratch)
    assert calls is not None
    tested = Program(calls, ProgramRunner(COMPILER))
    tested.run(rows, {}, None)
    torch.testing.assert_close(outputs[:rows], layer(inputs[:rows]))


@pytest.mark.skipif(not supports_int8(), reason="the CPU has no instructions for int8")
def test_unsupported_layers_have_no_kernel_calls() -> None:
    scratch, plain = Scratch(8), nn.Linear(64, 96)
    inputs, outputs = torch.zeros(8, 64), torch.zeros(8, 96)
    assert build_linear_calls(plain, inputs, outputs, scratch) is None
    assert build_linear_calls(OneDnnInt8Linear(plain.weight, None), inputs, outputs, scratch) is None


def test_a_program_runs_without_a_writable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    values = torch.zeros(2, dtype=torch.int64)
    compiler = Compiler(tmp_path / "file")
    tested = Program(
        [KernelCall(compiler.get_kernel(_ADD_ONE), ROW_COUNT, (values.data_ptr(),))], ProgramRunner(compiler)
    )
    tested.run(2, {}, None)
    assert values.tolist() == [1, 1]

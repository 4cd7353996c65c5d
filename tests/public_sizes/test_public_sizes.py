"""Promise: models of public sizes answer as transformers does, in every mode."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runners.kernels.host_cpu import has_feature
from tests.public_sizes.avx2_only import environment
from tests.public_sizes.checkpoint import make
from tests.public_sizes.comparison import MODES, Expected, compare, expect, forget, unable
from tests.public_sizes.models import MODELS, PublicModel


@dataclass(frozen=True, slots=True)
class _Made:
    model: PublicModel
    folder: Path
    expected: Expected


def _case(model: PublicModel, mode: str) -> Any:
    # One test process creates a model and runs it in all modes.
    marks = [pytest.mark.xdist_group(model.hub_id), *([] if mode in model.quick else [pytest.mark.sweep])]
    return pytest.param(model, mode, id=f"{model.hub_id}-{mode}", marks=marks)


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Made]:
    """Create a model's checkpoint and the plain model's answers."""
    model: PublicModel = request.param
    folder = make(model, tmp_path_factory.mktemp("model"))
    try:
        yield _Made(model, folder, expect(model, folder))
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("made", "mode"), [_case(model, mode) for model in MODELS for mode in MODES], indirect=["made"], scope="module"
)
def test_a_model_answers_as_transformers_does(made: _Made, mode: str) -> None:
    if reason := unable(mode):
        pytest.skip(reason)
    try:
        assert compare(made.model, made.folder, mode, made.expected).wrong == []
    finally:
        forget()


_CPU = (
    "from runners.kernels import host_cpu, layout; "
    "print(host_cpu.get_name_and_features()[0], layout.TILE_ROWS, flush=True)"
)


@pytest.mark.skipif(not has_feature("avx2"), reason="the CPU has no AVX2")
def test_a_process_and_its_children_can_be_limited_to_avx2() -> None:
    torch_too = "import torch; print(torch.backends.cpu.get_cpu_capability(), flush=True)"
    as_compiler = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_CPU!r}], check=True)"
    command = [sys.executable, "-c", f"{_CPU}; {torch_too}; {as_compiler}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["haswell", "4", "AVX2", "haswell", "4"]


@pytest.mark.skipif(not has_feature("avx512f"), reason="without AVX-512, all other tests compute so")
def test_models_answer_as_transformers_does_with_avx2_only() -> None:
    tests = [
        f"{Path(__file__)}::{test_a_model_answers_as_transformers_does.__name__}[{model.hub_id}-accelerated]"
        for model in MODELS
        if "avx2" in model.quick
    ]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{len(tests)} passed" in done.stdout


def test_every_task_has_quick_models_and_many_others() -> None:
    tasks = {model.task for model in MODELS}
    assert len(tasks) == 7
    assert {model.task for model in MODELS if model.quick} == tasks
    assert len({model.hub_id for model in MODELS}) == len(MODELS) >= 42

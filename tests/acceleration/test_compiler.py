"""Promises of the compiler: it compiles once for a machine, in another process, and what fails there harms nobody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from acceleration import CompileError, compiler
from acceleration.compiler import Compiler
from acceleration.source import Source

ONE, TWO = (Source("tests.acceleration.sources:add_always", (number,)) for number in (1, 2))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was started, call by call."""
    run: Callable[..., Any] = subprocess.run
    started: list[Any] = []

    def count(*arguments: Any, **options: Any) -> Any:
        started.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", count)
    return started


def _added(compiler: Compiler, source: Source) -> int:
    place = torch.zeros(1, dtype=torch.int64)
    compiler.kernel(source)(1, place.data_ptr())
    return int(place)


def test_kernels_are_compiled_together_and_once(tmp_path: Path, processes: list[Any]) -> None:
    first = Compiler(tmp_path)
    first.start([ONE, TWO])
    first.start([TWO])
    assert (_added(first, ONE), _added(first, TWO)) == (1, 2)
    assert first.kernel(ONE) is first.kernel(ONE)
    assert len(processes) == 1
    assert _added(Compiler(tmp_path), TWO) == 2
    assert len(processes) == 1


def test_what_another_processor_or_a_part_of_a_file_is_kept_for_is_compiled_anew(
    tmp_path: Path, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _added(Compiler(tmp_path), ONE) == 1
    [file] = tmp_path.rglob("*.o")
    file.write_bytes(file.read_bytes()[:-9])
    assert _added(Compiler(tmp_path), ONE) == 1
    assert len(processes) == 2
    monkeypatch.setattr(compiler, "name_and_features", lambda: ("another", ""))
    compiler._version_of.cache_clear()
    try:
        assert _added(Compiler(tmp_path), ONE) == 1
    finally:
        compiler._version_of.cache_clear()
    assert len(processes) == 3


@pytest.mark.parametrize("name", ["array", "library"])
def test_what_would_need_more_than_a_kernel_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CompileError, match=f"{name} needs "):
        Compiler(tmp_path).kernel(Source(f"tests.acceleration.sources:{name}"))


def test_a_compiler_that_dies_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CompileError, match="the compiler ended with 1"):
        Compiler(tmp_path).kernel(ONE)


def test_a_runner_does_not_load_what_compiles(tmp_path: Path) -> None:
    """It takes a second and 80 MB."""
    Compiler(tmp_path).kernel(ONE)
    code = (
        "import sys; from pathlib import Path; "
        "from acceleration.compiler import Compiler; from acceleration.source import Source; "
        "import acceleration.encoder_layers, generation.fused_layers; "
        f"Compiler(Path({str(tmp_path)!r})).kernel(Source({ONE.name!r}, (1,))); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Promises of the compiler: it compiles once for a machine, in another process, and what fails there harms nobody."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from runners.kernels import CompileError, compiler
from runners.kernels.compiler import Compiler
from runners.kernels.kernel_source import KernelSource

ONE, TWO = (KernelSource("tests.runners.kernels.sources:add_always", (number,)) for number in (1, 2))


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


def _added(compiler: Compiler, source: KernelSource) -> int:
    place = torch.zeros(1, dtype=torch.int64)
    compiler.get_kernel(source)(1, place.data_ptr())
    return int(place)


def test_kernels_are_compiled_together_and_once(tmp_path: Path, processes: list[Any]) -> None:
    first = Compiler(tmp_path)
    first.start_compiling([ONE, TWO])
    first.start_compiling([TWO])
    assert (_added(first, ONE), _added(first, TWO)) == (1, 2)
    assert first.get_kernel(ONE) is first.get_kernel(ONE)
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
    monkeypatch.setattr(compiler, "get_name_and_features", lambda: ("another", ""))
    compiler._hash_sources.cache_clear()
    try:
        assert _added(Compiler(tmp_path), ONE) == 1
    finally:
        compiler._hash_sources.cache_clear()
    assert len(processes) == 3


@pytest.fixture(scope="module")
def code() -> bytes:
    """Of a kernel that adds one."""
    return compiler._compile_sources([ONE])[0]


@pytest.fixture
def compiled(code: bytes, monkeypatch: pytest.MonkeyPatch) -> list[KernelSource]:
    """What was compiled, which takes no time and adds one whatever it is."""
    asked: list[KernelSource] = []

    def compile_at_once(sources: Sequence[KernelSource]) -> list[bytes]:
        asked.extend(sources)
        return [code for _ in sources]

    monkeypatch.setattr(compiler, "_compile_sources", compile_at_once)
    return asked


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def _give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it somebody else's."""
    mine = os.geteuid()
    if mine == 0:
        os.chown(path, 4242, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)


def _group_may_write(path: Path, _: pytest.MonkeyPatch) -> None:
    path.chmod(path.stat().st_mode | 0o020)


def _all_may_write(path: Path, _: pytest.MonkeyPatch) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def _link_to_another(path: Path, _: pytest.MonkeyPatch) -> None:
    moved = path.rename(path.with_name(f"moved-{path.name}"))
    path.symlink_to(moved)


@pytest.mark.parametrize("open_up", [_give_away, _group_may_write, _all_may_write, _link_to_another])
@pytest.mark.parametrize("depth", ["file", "version", "folder", "parent"])
def test_kernels_that_others_could_exchange_are_compiled_anew_not_kept_and_told_of_once(
    tmp_path: Path,
    compiled: list[KernelSource],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    open_up: Callable[[Path, pytest.MonkeyPatch], None],
    depth: str,
) -> None:
    if open_up is _link_to_another and depth in ("folder", "parent"):
        pytest.skip("where a link leads is looked at")
    folder = tmp_path / "cache" / "kernels"
    assert _added(Compiler(folder), ONE) == 1
    assert _told(caplog) == []
    [file] = folder.rglob("*.o")
    open_up({"file": file, "version": file.parent, "folder": folder, "parent": folder.parent}[depth], monkeypatch)
    before = sorted(path.name for path in folder.rglob("*"))
    distrusting = Compiler(folder)
    distrusting.start_compiling([ONE])
    assert (_added(distrusting, ONE), _added(distrusting, TWO)) == (1, 1)
    assert compiled == [ONE, ONE, TWO]
    [warning] = _told(caplog)
    assert "STORAGE_CACHE" in warning
    assert str(tmp_path) in warning
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_a_link_to_a_folder_that_is_ours_alone_leads_there_and_one_to_anybodys_nowhere(
    tmp_path: Path, compiled: list[KernelSource], caplog: pytest.LogCaptureFixture
) -> None:
    mine, anybodys = tmp_path / "mine", tmp_path / "anybodys"
    mine.mkdir(0o700)
    anybodys.mkdir()
    anybodys.chmod(0o777)
    for target in (mine, anybodys):
        link = tmp_path / f"to-{target.name}"
        link.symlink_to(target)
        assert _added(Compiler(link), ONE) == 1
    assert len(list(mine.rglob("*.o"))) == 1
    assert not list(anybodys.iterdir())
    assert len(_told(caplog)) == 1
    assert len(compiled) == 2


def test_a_folder_in_one_where_nobody_can_exchange_what_is_others_is_used(
    tmp_path: Path, compiled: list[KernelSource], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """/tmp, and a volume of Kubernetes, which the containers of one pod may write to."""
    sticky, volume = tmp_path / "sticky", tmp_path / "volume"
    for shared, mode in ((sticky, 0o1777), (volume, 0o777)):
        shared.mkdir()
        shared.chmod(mode)
    is_mount = Path.is_mount
    monkeypatch.setattr(Path, "is_mount", lambda path: path == volume or is_mount(path))
    for shared in (sticky, volume):
        for _ in range(2):
            assert _added(Compiler(shared / "kernels"), ONE) == 1
    assert len(compiled) == 2
    assert _told(caplog) == []


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_folders_of_kernels_are_made_for_this_user_alone_whatever_others_are_made_like(
    tmp_path: Path, compiled: list[KernelSource], umask: int
) -> None:
    before = os.umask(umask)
    try:
        for _ in range(2):
            assert _added(Compiler(tmp_path / "a" / "b"), ONE) == 1
    finally:
        os.umask(before)
    assert len(compiled) == 1
    [file] = tmp_path.rglob("*.o")
    for folder in (file.parent, file.parents[1], file.parents[2]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not file.stat().st_mode & 0o022


@pytest.mark.parametrize("name", ["array", "library"])
def test_what_would_need_more_than_a_kernel_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CompileError, match=f"{name} needs "):
        Compiler(tmp_path).get_kernel(KernelSource(f"tests.runners.kernels.sources:{name}"))


def test_a_compiler_that_dies_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CompileError, match="the compiler ended with 1"):
        Compiler(tmp_path).get_kernel(ONE)


def test_a_runner_does_not_load_what_compiles(tmp_path: Path) -> None:
    """It takes a second and 80 MB."""
    Compiler(tmp_path).get_kernel(ONE)
    code = (
        "import sys; from pathlib import Path; "
        "from runners.kernels.compiler import Compiler; from runners.kernels.kernel_source import KernelSource; "
        "import runners.kernels.encoder_layers, runners.engines.generate.fused_layers; "
        f"Compiler(Path({str(tmp_path)!r})).get_kernel(KernelSource({ONE.name!r}, (1,))); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

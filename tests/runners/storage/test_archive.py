"""Promise: an untrusted archive is unpacked into its own folder only, or clearly refused."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import namedtuple
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_runtime.contract.errors import LoadError
from runners.storage import archive, disk
from runners.storage.archive import unpack

FILES = {"config.json": b"{}", "1_Pooling/config.json": b"[]"}
MODES = ["w:", "w:gz", "w:bz2", "w:xz"]
_Usage = namedtuple("_Usage", "total used free")


def _tar(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as out:
        for name, member in members.items():
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(name)
            content = b"" if isinstance(member, tarfile.TarInfo) else member
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def _zip(path: Path, members: dict[str, bytes], **kinds: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = kinds.get(name, 0o100644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(info, content)
    return path


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _refusal(path: Path, folder: Path) -> str:
    with pytest.raises(LoadError) as refused:
        unpack(path, folder, "the archive")
    assert str(refused.value).endswith(".")
    return str(refused.value)


@pytest.mark.parametrize("mode", [*MODES, "zip"])
@pytest.mark.parametrize("top", ["", "model/", "./", "./model/"])
def test_every_kind_is_unpacked_and_the_only_folder_in_it_is_the_model(tmp_path: Path, mode: str, top: str) -> None:
    members: Any = {f"{top}{name}": content for name, content in FILES.items()}
    path = _zip(tmp_path / "a", members) if mode == "zip" else _tar(tmp_path / "a", members, mode)
    assert _files(unpack(path, tmp_path / "out", "the archive")) == FILES


def test_files_that_macos_adds_are_not_part_of_the_model(tmp_path: Path) -> None:
    members = {"m/config.json": b"{}", "m/._config.json": b"", "__MACOSX/m/._config.json": b"", "._m": b""}
    assert _files(unpack(_zip(tmp_path / "a", members), tmp_path / "out", "the archive")) == {"config.json": b"{}"}


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "a\\..\\..\\up", "C:\\up", "\\up"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_path_outside_the_folder_is_refused_by_name(tmp_path: Path, name: str, kind: str) -> None:
    members: Any = {"config.json": b"{}", name: b"evil"}
    path = _zip(tmp_path / "a", members) if kind == "zip" else _tar(tmp_path / "a", members)
    message = _refusal(path, tmp_path / "in" / "out")
    assert repr(name) in message
    assert "lies outside the model's folder" in message
    assert not (tmp_path / "up").exists()
    assert not (tmp_path / "in" / "up").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused_by_name(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("weights")
    member.type, member.linkname = kind, "config.json"
    message = _refusal(_tar(tmp_path / "a", {"config.json": b"{}", "weights": member}), tmp_path / "out")
    assert "'weights' is a link or a device" in message


def test_links_in_a_zip_are_refused_by_name(tmp_path: Path) -> None:
    message = _refusal(_zip(tmp_path / "a", {"weights": b"/etc/passwd"}, weights=0o120777), tmp_path / "out")
    assert "'weights' is a link or a device" in message


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_expands_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(archive, "MIN_LIMIT", 2**20)
    members: Any = {str(number): bytes(2**20) for number in range(8)}
    path = _zip(tmp_path / "a", members) if kind == "zip" else _tar(tmp_path / "a", members)
    assert "grows to more than 1.0 MiB when unpacked; it is no model" in _refusal(path, tmp_path / "out")
    assert sum(map(len, _files(tmp_path / "out").values())) <= 2**20


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_exceeds_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: _Usage(0, 0, disk.RESERVE + 1000))
    members: Any = {"config.json": b"x" * 1001}
    path = _zip(tmp_path / "a", members) if kind == "zip" else _tar(tmp_path / "a", members)
    message = _refusal(path, tmp_path / "out")
    assert f"needs more room than is free in {tmp_path / 'out'}, where 1000 B are free" in message


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    members: Any = {str(number): b"" for number in range(4)}
    path = _zip(tmp_path / "a", members) if kind == "zip" else _tar(tmp_path / "a", members)
    assert "holds more than 3 files" in _refusal(path, tmp_path / "out")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a", {"config.json": b"{}"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "is encrypted (config.json)" in _refusal(path, tmp_path / "out")


@pytest.mark.parametrize("mode", [*MODES, "zip"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_broken_archive_is_refused_in_one_sentence_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, mode: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    members: Any = {"config.json": b"{}" * 500, "b": bytes(range(256)) * 4}
    path = _zip(folder / "a", members) if mode == "zip" else _tar(folder / "a", members, mode)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(LoadError):
        unpack(path, folder / "out", "the archive")
    assert {entry.name for entry in folder.iterdir()} == {"a", "out"}

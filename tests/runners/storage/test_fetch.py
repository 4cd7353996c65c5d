"""Promise: a storage URI gives one local model or one sentence of advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage.checkpoint import Checkpoint
from runners.storage.fetch import RemoteFile, check_uri, fetch, list_files, read_config


def _fetch(uri: object, **settings: Any) -> Checkpoint:
    return fetch(ModelSettings(storage_uri=str(uri), **settings))


def _folder(folder: Path, *files: str) -> Path:
    folder.mkdir()
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")
    return folder


def test_a_folder_is_named_by_path_by_file_uri_and_relative_to_home_and_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path / "my model", "config.json", "model.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    quoted = str(folder).replace(" ", "%20")
    for uri in (folder, f"{folder}/", f"file://{quoted}", "~/my model", "my model", "./my model"):
        assert _fetch(uri) == Checkpoint(folder)


def test_a_gguf_file_is_found_by_its_path_or_its_folder(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", "a.gguf")
    for uri in (folder, folder / "a.gguf", f"file://{folder}/a.gguf"):
        assert _fetch(uri) == Checkpoint(folder, "a.gguf")


def test_one_of_several_gguf_files_is_named_by_gguf_file(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", "b.gguf", "a.gguf", "q4/c.gguf")
    assert _fetch(folder, gguf_file="b.gguf") == Checkpoint(folder, "b.gguf")
    assert _fetch(folder, gguf_file="q4/c.gguf") == Checkpoint(folder, "q4/c.gguf")
    with pytest.raises(LoadError, match=r"choose one with GGUF_FILE: a\.gguf, b\.gguf"):
        _fetch(folder)
    with pytest.raises(LoadError, match=r"GGUF_FILE: d\.gguf is not in .*; it holds a\.gguf, b\.gguf"):
        _fetch(folder, gguf_file="d.gguf")


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_gguf_next_to_other_weights_is_loaded_only_if_named(tmp_path: Path, weights: str) -> None:
    folder = _folder(tmp_path / "model", "config.json", weights, "a.gguf", "b.gguf")
    assert _fetch(folder) == Checkpoint(folder)
    assert _fetch(folder, gguf_file="a.gguf") == Checkpoint(folder, "a.gguf")


def test_gguf_next_to_a_config_without_weights_is_loaded(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", "config.json", "training_args.bin", "a.gguf")
    assert _fetch(folder) == Checkpoint(folder, "a.gguf")


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("missing", "missing does not exist; give a model folder, or hf://owner/model"),
        ("file:///missing", "/missing does not exist"),
        ("readme.txt", "readme.txt is neither a model folder nor a .gguf file"),
        ("empty", "holds no config.json and no .gguf file"),
        (
            "ftp://host/model",
            "'ftp://' is not a known storage scheme; known are a local path, file://, pvc://, bentoml://, hf://, s3://",
        ),
        ("HF://owner/model", "'HF://' is not a known storage scheme"),
    ],
)
def test_a_path_without_a_model_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, named: str
) -> None:
    _folder(tmp_path / "empty")
    (tmp_path / "readme.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError) as refused:
        _fetch(uri)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_config_is_fetched_without_the_weights(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", "config.json")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert read_config(ModelSettings(storage_uri=str(folder))) == {"model_type": "bert"}
    (folder / "a.gguf").touch()
    assert read_config(ModelSettings(storage_uri=str(folder / "a.gguf"))) is None


def test_a_damaged_config_is_reported_as_damaged(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", "config.json")
    (folder / "config.json").write_bytes(b'{"model_type": "b')
    with pytest.raises(LoadError, match=r"config\.json is not valid JSON"):
        read_config(ModelSettings(storage_uri=str(folder)))


def test_a_volume_is_found_under_its_claims_name_or_as_the_mount_itself(tmp_path: Path) -> None:
    (tmp_path / "claim").mkdir()
    (tmp_path / "other").mkdir()
    below = _folder(tmp_path / "claim" / "model", "config.json")
    itself = _folder(tmp_path / "alone", "config.json")
    for uri, folder in (
        ("pvc://claim/model", below),
        ("pvc://claim/model/", below),
        ("pvc://mounted/alone", itself),
    ):
        assert _fetch(uri, pvc_dir=tmp_path) == Checkpoint(folder)
        check_uri(ModelSettings(storage_uri=uri, pvc_dir=tmp_path))
    assert _fetch("pvc://claim", pvc_dir=itself) == Checkpoint(itself)
    assert _fetch("pvc://model", pvc_dir=tmp_path / "claim") == Checkpoint(below)


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("pvc://", "is not of the form pvc://claim/path"),
        ("pvc:///model", "is not of the form pvc://claim/path"),
        ("pvc://claim/../../etc", "is not of the form pvc://claim/path"),
        ("pvc://../etc", "is not of the form pvc://claim/path"),
        ("pvc://claim/link", "leads out of"),
        ("pvc://claim/none", "/claim/none nor "),
    ],
)
def test_a_path_that_is_not_on_the_volume_is_refused(tmp_path: Path, uri: str, named: str) -> None:
    _folder(tmp_path / "mnt")
    _folder(tmp_path / "mnt" / "claim")
    _folder(tmp_path / "outside", "config.json")
    (tmp_path / "mnt" / "claim" / "link").symlink_to(tmp_path / "outside")
    for check in (fetch, check_uri):
        with pytest.raises(LoadError) as refused:
            check(ModelSettings(storage_uri=uri, pvc_dir=tmp_path / "mnt"))
        assert named in str(refused.value)


def test_the_needed_files_of_a_local_model_are_listed(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", "config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx")
    assert list_files(ModelSettings(storage_uri=str(folder))) == [
        RemoteFile("config.json", 2, cached=True),
        RemoteFile("model.safetensors", 2, cached=True),
    ]
    gguf = _folder(tmp_path / "gguf", "a.gguf") / "a.gguf"
    assert list_files(ModelSettings(storage_uri=str(gguf))) == [RemoteFile("a.gguf", 2, cached=True)]

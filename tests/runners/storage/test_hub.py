"""Promise: a hub model is found by its URI, fetched once, or refused in one sentence."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from huggingface_hub import constants
from pydantic import SecretStr

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.models.adapter import Adapter
from runners.models.architecture import resolve_task
from runners.models.pretrained import _fetch_base
from runners.storage import disk, progress
from runners.storage.fetch import RemoteFile, fetch, list_files, read_config
from runners.storage.source import UnreachableError
from tests.project import ROOT
from tests.runners.storage.fake_hub import FakeHub
from tests.runners.storage.refusals import refusal

TOKEN = "hf_a-secret-token"
LARGE = bytes(range(256)) * 1000
_Usage = namedtuple("_Usage", "total used free")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Create a repository's folder with every kind of file; contents do not matter here."""
    return _folder(
        tmp_path / "model",
        "config.json", "tokenizer.json", "vocab.txt", "1_Pooling/config.json", "README.md",
        "model.safetensors", "model.fp16.safetensors", "consolidated.safetensors", "original/model.safetensors",
        "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "model-Q4.gguf",
    )  # fmt: skip


def _folder(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        content = {"architectures": ["BertForMaskedLM"]} if file == "config.json" else {"file": file}
        (folder / file).write_text(json.dumps(content))
    return folder


def _settings(uri: str, **settings: Any) -> ModelSettings:
    return ModelSettings(storage_uri=uri, **settings)


def _refusal(settings: ModelSettings) -> str:
    return refusal(settings, TOKEN)


@pytest.mark.parametrize("name", ["owner/model", "model"])
def test_a_model_is_found_with_and_without_an_owner(hub: FakeHub, model: Path, name: str) -> None:
    hub.add(name, model)
    assert (fetch(_settings(f"hf://{name}")).folder / "config.json").is_file()


def test_only_the_weights_that_are_loaded_and_small_files_are_downloaded(hub: FakeHub, model: Path) -> None:
    hub.add("owner/model", model)
    fetch(_settings("hf://owner/model"))
    assert hub.downloads() == [
        "1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "settings", "weights"),
    [
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "pytorch_model.bin"], {},
         ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "a.gguf"], {}, ["pytorch_model.bin"]),
        (["a.gguf", "onnx/model.onnx"], {}, ["a.gguf"]),
        (["a.gguf", "b.gguf", "model.safetensors"], {"gguf_file": "b.gguf"}, ["b.gguf"]),
    ],
    ids=["shards", "pickle", "the only gguf", "a named gguf"],
)  # fmt: skip
def test_one_kind_of_weights_is_downloaded(
    hub: FakeHub, tmp_path: Path, files: list[str], settings: dict[str, Any], weights: list[str]
) -> None:
    hub.add("owner/model", _folder(tmp_path / "model", "config.json", *files))
    fetch(_settings("hf://owner/model", **settings))
    assert hub.downloads() == sorted(["config.json", *weights])


def test_one_of_several_gguf_files_must_be_named(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("owner/model", _folder(tmp_path / "model", "a.gguf", "b.gguf"))
    assert "GGUF_FILE: a.gguf, b.gguf" in _refusal(_settings("hf://owner/model"))
    assert "c.gguf is not in the repository" in _refusal(_settings("hf://owner/model", gguf_file="c.gguf"))


def test_a_revision_is_read_from_the_uri_or_from_model_revision(hub: FakeHub, model: Path) -> None:
    hub.add("owner/model", model)
    hub.repos["owner/model"].revisions["refs/pr/1"] = {"config.json": b'{"revised": true}', "model.safetensors": b""}
    for settings in (
        _settings("hf://owner/model:refs/pr/1"),
        _settings("hf://owner/model", revision="refs/pr/1"),
        _settings("hf://owner/model:refs/pr/1", revision="refs/pr/1"),
    ):
        assert json.loads((fetch(settings).folder / "config.json").read_text()) == {"revised": True}


def test_two_different_revisions_are_refused_without_a_request(hub: FakeHub) -> None:
    message = _refusal(_settings("hf://owner/model:v1", revision="v2"))
    assert "v1" in message
    assert "MODEL_REVISION for v2" in message
    assert hub.requests == []


def test_a_private_model_needs_the_right_token(hub: FakeHub, model: Path) -> None:
    hub.add("owner/private", model, token=TOKEN)
    assert fetch(_settings("hf://owner/private", hf_token=SecretStr(TOKEN))).folder.is_dir()
    assert "set HF_TOKEN" in _refusal(_settings("hf://owner/private"))
    hub.repos["owner/private"].token = "another"
    assert "owner/private" in _refusal(_settings("hf://owner/private", hf_token=SecretStr(TOKEN)))


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("hf://owner/missing", "owner/missing does not exist on the hub, or is private"),
        ("hf://owner/gated", "owner/gated is gated: accept its terms"),
        ("hf://owner/model:v9", "owner/model has no revision v9"),
        ("hf://owner/model/deeper", "hf://[owner/]model[:revision]"),
        ("hf://", "hf://[owner/]model[:revision]"),
        ("hf://owner/-model-", "not a valid repository name"),
    ],
)
def test_a_refusal_of_the_hub_is_reported_in_one_sentence(hub: FakeHub, model: Path, uri: str, named: str) -> None:
    hub.add("owner/model", model)
    hub.add("owner/gated", model, gated=True)
    assert named in _refusal(_settings(uri, hf_token=SecretStr(TOKEN)))
    with pytest.raises(LoadError):
        resolve_task(_settings(uri, hf_token=SecretStr(TOKEN)))


@pytest.mark.parametrize(
    ("status", "named"),
    [(500, "status 500"), (429, "status 429"), (403, "HF_TOKEN"), (418, "status 418"), (0, "hung up again and again")],
    ids=["fails", "limits", "forbids", "jokes", "hangs up"],
)
def test_a_faulty_hub_is_reported_in_one_sentence(hub: FakeHub, status: int, named: str) -> None:
    hub.status = status
    assert named in _refusal(_settings("hf://owner/model", hf_token=SecretStr(TOKEN)))


@pytest.mark.parametrize("status", [500, 0], ids=["fails", "hangs up"])
def test_a_model_in_the_cache_is_served_while_the_hub_is_down(
    hub: FakeHub, model: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("owner/model", model)
    first = fetch(_settings("hf://owner/model"))
    hub.status = status
    with caplog.at_level(logging.WARNING, "runners"):
        assert fetch(_settings("hf://owner/model")) == first
    assert "owner/model: the hub cannot be reached" in caplog.text
    assert "owner/other" in _refusal(_settings("hf://owner/other"))


def test_a_cache_without_the_weights_is_not_served(hub: FakeHub, model: Path) -> None:
    hub.add("owner/model", model)
    weights = fetch(_settings("hf://owner/model")).folder / "model.safetensors"
    weights.unlink()
    hub.status = 500
    assert "status 500" in _refusal(_settings("hf://owner/model"))


def test_a_second_start_downloads_nothing(hub: FakeHub, model: Path) -> None:
    hub.add("owner/model", model)
    fetch(_settings("hf://owner/model"))
    hub.requests.clear()
    fetch(_settings("hf://owner/model"))
    assert hub.downloads() == []


def test_offline_a_warm_cache_is_served_without_a_request_and_a_cold_one_refused(
    hub: FakeHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("owner/model", model)
    hub.add("owner/m-gguf", _folder(tmp_path / "gguf", "a.gguf"))
    settings = [_settings("hf://owner/model"), _settings("hf://owner/m-gguf")]
    first = [(fetch(resolve_task(each)), resolve_task(each).task) for each in settings]
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert [(fetch(resolve_task(each)), resolve_task(each).task) for each in settings] == first
    assert [task for _, task in first] == ["fill-mask", "text-generation"]
    assert "not in the cache" in _refusal(_settings("hf://owner/other"))
    with pytest.raises(LoadError, match="not in the cache"):
        resolve_task(_settings("hf://owner/other"))
    assert hub.requests == []


def test_offline_is_a_setting_of_the_model_and_not_of_the_process(hub: FakeHub, model: Path) -> None:
    hub.add("owner/model", model)
    assert "not in the cache" in _refusal(_settings("hf://owner/model", offline=True))
    first = fetch(resolve_task(_settings("hf://owner/model")))
    hub.requests.clear()
    assert fetch(resolve_task(_settings("hf://owner/model", offline=True))) == first
    assert all(file.cached for file in list_files(_settings("hf://owner/model", offline=True)))
    assert hub.requests == []


def test_another_hub_is_used_if_configured(
    hub: FakeHub, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
    )
    hub.add("owner/model", model)
    settings = _settings("hf://owner/model", hf_endpoint=hub.url)
    assert list_files(settings) != []
    assert resolve_task(settings).task == "fill-mask"
    assert fetch(settings).folder.is_dir()


def test_files_to_download_are_listed_with_sizes(hub: FakeHub, model: Path) -> None:
    hub.add("owner/model", model)
    names = ["config.json", "tokenizer.json", "vocab.txt", "1_Pooling/config.json", "model.safetensors"]
    expected = {RemoteFile(name, (model / name).stat().st_size) for name in names}
    assert set(list_files(_settings("hf://owner/model"))) == expected
    assert hub.downloads() == []
    fetch(_settings("hf://owner/model"))
    assert all(file.cached for file in list_files(_settings("hf://owner/model")))


def test_a_file_that_is_cut_off_is_resumed(hub: FakeHub, model: Path) -> None:
    (model / "model.safetensors").write_bytes(LARGE)
    hub.add("owner/model", model)
    hub.cuts = [100_000] * 6
    assert (fetch(_settings("hf://owner/model")).folder / "model.safetensors").read_bytes() == LARGE


def test_a_file_that_is_cut_off_repeatedly_is_one_sentence_and_resumed_later(hub: FakeHub, model: Path) -> None:
    (model / "model.safetensors").write_bytes(LARGE)
    hub.add("owner/model", model)
    hub.cuts = [0] * 1000
    assert "hung up again and again" in _refusal(_settings("hf://owner/model"))
    hub.cuts = []
    assert (fetch(_settings("hf://owner/model")).folder / "model.safetensors").read_bytes() == LARGE


def test_a_file_with_another_hash_is_refused_and_fetched_again(hub: FakeHub, model: Path) -> None:
    (model / "model.safetensors").write_bytes(LARGE)
    hub.add("owner/model", model)
    hub.altered["model.safetensors"] = LARGE[::-1]
    assert "model.safetensors came damaged (other size or SHA-256)" in _refusal(_settings("hf://owner/model"))
    hub.altered.clear()
    assert (fetch(_settings("hf://owner/model")).folder / "model.safetensors").read_bytes() == LARGE


def test_a_file_of_another_size_than_listed_is_refused(hub: FakeHub, model: Path) -> None:
    hub.add("owner/model", model)
    hub.listed_sizes["model.safetensors"] = 12345
    assert "came damaged" in _refusal(_settings("hf://owner/model"))


def test_a_download_that_exceeds_the_disk_is_not_started(
    hub: FakeHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "model.safetensors").write_bytes(LARGE)
    hub.add("owner/model", model)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: _Usage(0, 0, disk.RESERVE + 1024))
    message = _refusal(_settings("hf://owner/model", cache_dir=tmp_path / "cache"))
    assert message.startswith("owner/model needs 250.")
    assert f"KiB in {tmp_path / 'cache'}, where 1.0 KiB are free" in message
    assert hub.downloads() == []


def test_two_concurrent_threads_download_each_file_once(hub: FakeHub, model: Path) -> None:
    hub.add("owner/model", model)
    hub.hold = Event()
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(fetch, _settings("hf://owner/model")) for _ in range(2)]
        hub.asked.wait()
        hub.hold.set()
        assert len({future.result() for future in asked}) == 1
    assert hub.downloads() == sorted(set(hub.downloads()))


def test_the_log_reports_size_progress_and_end_without_the_signature(
    hub: FakeHub, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Two large files: the first to end is a part of the whole.
    (model / "model-00001-of-00002.safetensors").write_bytes(LARGE)
    (model / "model-00002-of-00002.safetensors").write_bytes(LARGE[::-1])
    hub.add("owner/model", model, token=TOKEN)
    clock = iter(range(0, 10**6, 6))
    monkeypatch.setattr(progress, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.DEBUG):
        fetch(_settings("hf://owner/model", hf_token=SecretStr(TOKEN)))
        logging.getLogger("httpx2").info("GET %s", f"https://cdn.example/file?X-Amz-Signature={TOKEN}")
    lines = [record.getMessage() for record in caplog.records if record.name == "runners.storage.progress"]
    assert lines[0].startswith("owner/model: downloading 500.")
    assert lines[-1].startswith("owner/model: downloaded 500.")
    assert any("%" in line for line in lines)
    assert "https://cdn.example/file" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "TRANSFORMERS_CACHE"])
def test_the_cache_is_in_the_configured_folder(
    hub: FakeHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    hub.add("owner/model", model)
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    assert fetch(_settings("hf://owner/model")).folder.is_relative_to(tmp_path / "cache")


def test_environment_variables_configure_endpoint_home_token_and_offline(hub: FakeHub, model: Path) -> None:
    """Run a process of its own.

    huggingface_hub reads these variables when it is imported.
    """
    hub.add("owner/private", model, token=TOKEN)
    home = model.parent / "home"
    environment = {
        "PATH": os.environ["PATH"], "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN,
        "STORAGE_URI": "hf://owner/private", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    command = (
        "from runners.storage.fetch import fetch; from hf_runtime.settings import ModelSettings;"
        "print(fetch(ModelSettings()).folder)"
    )

    def folder(**more: str) -> Path:
        answer = subprocess.run(
            [sys.executable, "-c", command], env={**environment, **more}, cwd=ROOT, capture_output=True, text=True
        )
        assert answer.returncode == 0, answer.stderr
        return Path(answer.stdout.strip())

    first = folder()
    assert first.is_relative_to(home / "hub")
    hub.requests.clear()
    assert folder(HF_HUB_OFFLINE="1") == first
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "may_pass"),
    [
        (500, True),
        (503, True),
        (429, True),
        (408, True),
        (0, True),
        (403, False),
        (401, False),
        (404, False),
        (418, False),
    ],
)
def test_only_temporary_errors_count_as_unreachable(hub: FakeHub, status: int, may_pass: bool) -> None:
    hub.status = status
    for ask in (fetch, read_config):
        with pytest.raises(LoadError) as refused:
            ask(_settings("hf://owner/model"))
        assert isinstance(refused.value, UnreachableError) == may_pass


def test_an_absent_hub_is_unreachable_unless_offline_is_configured(hub: FakeHub, tmp_path: Path) -> None:
    settings = _settings("hf://owner/model", hf_endpoint="http://127.0.0.1:9", cache_dir=tmp_path / "empty")
    with pytest.raises(UnreachableError, match="cannot be reached"):
        fetch(settings)
    with pytest.raises(LoadError) as refused:
        fetch(settings.model_copy(update={"offline": True}))
    assert not isinstance(refused.value, UnreachableError)


def test_an_adapter_with_an_unreachable_base_model_is_unreachable(hub: FakeHub, tmp_path: Path) -> None:
    adapter = Adapter(tmp_path, {"base_model_name_or_path": "owner/base"})
    hub.status = 503
    with pytest.raises(UnreachableError, match="base model cannot be fetched"):
        _fetch_base(adapter, _settings("hf://owner/adapter"))

"""Promise: a model that cannot fit is refused before loading, and estimates are exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.models import memory
from runners.models.memory import Footprint, check_fits, footprint, measure_free_memory
from runners.models.pretrained import load_pretrained
from runners.storage.checkpoint import Checkpoint
from tests.tiny import bert_config, save, wordpiece_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = wordpiece_tokenizer()
    config = bert_config(tokenizer, num_labels=3, hidden_size=256, intermediate_size=1024)
    return save(tmp_path_factory.mktemp("model"), BertForSequenceClassification, config, tokenizer)


def _settings(folder: Path, **options: Any) -> ModelSettings:
    return ModelSettings(storage_uri=str(folder), task="text-classification", **options)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@pytest.mark.parametrize(
    "options",
    [{}, {"torch_dtype": "bfloat16"}, {"torch_dtype": "auto"}, {"load_in_8bit": True}, {"load_in_4bit": True}],
    ids=str,
)
def test_the_estimate_is_the_memory_that_loading_needs(folder: Path, options: dict[str, Any]) -> None:
    settings, checkpoint = _settings(folder, **options), Checkpoint(folder)
    estimated = footprint(checkpoint, settings).memory
    assert estimated is not None
    model: Any = load_pretrained(AutoModelForSequenceClassification, checkpoint, settings).model
    # Without tables, and without tensors that only stand for the shape of weights elsewhere.
    others = [
        buffer for name, buffer in model.named_buffers() if buffer.is_meta or not name.endswith((".weight", ".bias"))
    ]
    assert estimated == pytest.approx(model.get_memory_footprint() - sum(map(_bytes, others)), rel=0.1)


def test_parameters_are_counted_in_safetensors_and_estimated_in_pickles(folder: Path, tmp_path: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(folder)
    counted = footprint(Checkpoint(folder), _settings(folder))
    assert counted.parameters == sum(parameter.numel() for parameter in model.parameters())
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    estimated = footprint(Checkpoint(tmp_path), _settings(tmp_path))
    assert estimated.parameters == pytest.approx(counted.parameters, rel=0.05)


def test_gguf_is_counted_by_its_size_on_disk_only(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x" * 100)
    assert footprint(Checkpoint(tmp_path, "m.gguf"), _settings(tmp_path)) == Footprint(None, 100, None)


def test_a_model_that_does_not_fit_is_refused_with_both_sizes_and_advice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "measure_free_device_memory", lambda _: 2**20)
    with pytest.raises(LoadError) as error:
        check_fits(Checkpoint(folder), _settings(folder))
    assert "does not fit in memory: it needs about 6.5 MiB in float32 and 1.0 MiB are free" in str(error.value)
    assert "LOAD_IN_8BIT" in str(error.value)
    check_fits(Checkpoint(folder), _settings(folder, device_map="auto"))


def test_gguf_that_is_larger_than_memory_before_it_is_unpacked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x" * 100)
    checkpoint = Checkpoint(tmp_path, "m.gguf")
    monkeypatch.setattr(memory, "measure_free_device_memory", lambda _: 60)
    with pytest.raises(LoadError, match="does not fit in memory"):
        check_fits(checkpoint, _settings(tmp_path))
    check_fits(checkpoint, _settings(tmp_path, torch_dtype="bfloat16"))


def test_a_limit_includes_the_memory_that_the_process_already_uses(folder: Path) -> None:
    assert measure_free_memory(1) == 0
    assert measure_free_memory() > measure_free_memory(2**34) - 2**34
    with pytest.raises(LoadError, match="does not fit in memory"):
        check_fits(Checkpoint(folder), _settings(folder, memory_limit=2**20))


@pytest.mark.parametrize(("limit", "free"), [("3000", 1000), ("1000", 0)])
def test_the_limit_of_a_container_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: int
) -> None:
    (tmp_path / "max").write_text(f"{limit}\n")
    (tmp_path / "current").write_text("2000\n")
    (tmp_path / "stat").write_text("anon 2000\nfile 0\n")
    monkeypatch.setattr(memory, "_CGROUPS", (tuple(str(tmp_path / name) for name in ("max", "current", "stat")),))
    assert measure_free_memory() == free
    (tmp_path / "max").write_text("max\n")
    assert measure_free_memory() > 3000


@pytest.mark.parametrize(
    "statistics",
    [
        "anon 500\nfile 1500\ninactive_anon 500\ninactive_file 1200\nactive_file 300\nworkingset_refault_file 7\n",
        "inactive_file 9\nactive_file 9\ntotal_inactive_file 1200\ntotal_active_file 300\ntotal_mapped_file 50\n",
    ],
    ids=["version 2", "version 1"],
)
def test_the_page_cache_of_a_download_does_not_count_as_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statistics: str
) -> None:
    for name, content in (("max", "3000"), ("current", "2000"), ("stat", statistics)):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(memory, "_CGROUPS", (tuple(str(tmp_path / name) for name in ("max", "current", "stat")),))
    assert measure_free_memory() == 3000 - 500

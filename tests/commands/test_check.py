"""Promise: `python -m commands.check` reports the models, their sizes and the problems."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from commands import check
from tests.e2e.checkpoints import inference_service, text_classification, text_generation
from tests.runners.storage import fake_hub


def _check(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["check", *arguments])
    return check.main()


def _config(folder: Path, *services: tuple[str, str, dict[str, str]]) -> str:
    path = folder / "models.yaml"
    documents = [inference_service(name, uri, env, maxReplicas=2) for name, uri, env in services]
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


def test_models_are_listed_with_task_sizes_and_settings_and_problems_make_it_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CALIBRATION_SECONDS")
    good = text_classification(tmp_path / "good")
    config = _config(
        tmp_path,
        ("good", str(good), {"LOAD_IN_8BIT": "true", "HF_TOKEN": "hf_hidden"}),
        ("missing", "/no/such/folder", {}),
        ("large", str(good), {"MEMORY_LIMIT": "1"}),
    )
    assert _check(monkeypatch, config) == 1
    out = capsys.readouterr().out
    first, second, third = (
        part.splitlines() for part in out.split("good\n", 1)[1].replace("large\n", "missing\n").split("missing\n")
    )
    assert "  task      text-classification, by its config" in first
    assert "  runs on   the CPU, in 8 bit" in first
    assert "  settings  HF_TOKEN=[hidden], LOAD_IN_8BIT=True" in first
    assert any(line.startswith("  memory    about") for line in first)
    assert "hf_hidden" not in out
    assert "/no/such/folder does not exist" in second[-1]
    assert "it does not fit" in third[-1]
    assert "maxReplicas is for Kubernetes" in out


def test_a_model_of_the_hub_is_listed_without_fetching_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_hub.serving() as hub:
        hub.add("owner/writer", text_generation(tmp_path / "writer"))
        for name, value in {
            "STORAGE_URI": "hf://owner/writer", "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        assert _check(monkeypatch) == 0
        assert "model.safetensors" not in hub.downloads()
    out = capsys.readouterr().out
    assert "  task      text-generation, by its config" in out
    assert "to fetch" in out
    assert "  weights   0.0 million" in out


def test_a_wrong_configuration_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _check(monkeypatch, str(tmp_path / "none.yaml")) == 1
    assert capsys.readouterr().err.startswith("Error: ")
    monkeypatch.delenv("STORAGE_URI", raising=False)
    assert _check(monkeypatch) == 1
    assert "STORAGE_URI is not set" in capsys.readouterr().err

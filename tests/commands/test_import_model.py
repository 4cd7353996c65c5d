"""Promise: `python -m commands.import_model` prints a tag or one line about the mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.import_model import main, stored_name


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("hf://sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("s3://bucket/Models/BERT_base/", "bert_base"),
        ("/models/é", "model"),
        ("My Model!", "my-model"),
        ("/models/x.Q4_K_M.gguf", "x.q4_k_m.gguf"),
        ("/models/" + "a" * 200, "a" * 63),
    ],
)
def test_a_model_is_stored_under_the_last_part_of_its_uri(uri: str, name: str) -> None:
    assert stored_name(uri) == name


def test_without_a_model_the_command_names_the_missing_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_URI", raising=False)
    assert main([]) == 1
    assert capsys.readouterr().err.startswith("Error: STORAGE_URI is not set")


def test_a_missing_model_is_an_error_of_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STORAGE_URI", str(tmp_path / "missing"))
    assert main([]) == 1
    assert capsys.readouterr().err.count("\n") == 1

"""Promise: the reason of a failed model is the error's text without secrets or paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_runtime.settings import ModelSettings
from runners.failure_reason import describe_expected, describe_unexpected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a model's folder with the files that a reason may name."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def _describe(error: Exception, uri: str | Path = "hf://owner/model", **options: Any) -> str:
    return describe_unexpected(error, ModelSettings(storage_uri=str(uri), **options))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("all examples must have the same number of <eos> tokens"),
         "RuntimeError: all examples must have the same number of <eos> tokens"),
        (ValueError("first\nsecond\nthird"), "ValueError: first"),
        (ValueError("\n  behind an empty line"), "ValueError: behind an empty line"),
        (KeyError("weight"), "KeyError: 'weight'"),
        (AssertionError(), "AssertionError"),
        (TypeError("a/b and 3/4 of and/or are no paths"), "TypeError: a/b and 3/4 of and/or are no paths"),
    ],
)  # fmt: skip
def test_a_reason_is_the_type_and_the_first_line_of_the_error(error: Exception, told: str) -> None:
    assert _describe(error) == told


def test_a_reason_is_short() -> None:
    assert len(_describe(RuntimeError("long " * 1000))) == 300


def test_a_reason_holds_no_secret() -> None:
    secrets = {
        "hf_token": "hf_abc",
        "storage_options": {"AWS_SECRET_ACCESS_KEY": "aws/abc", "h-headers": json.dumps({"A": "B c"})},
    }
    uri = "https://user:word@host/model.zip?sig=signed"
    told = _describe(RuntimeError(f"hf_abc, aws/abc, 'B c' at {uri} and word"), uri, **secrets)
    assert told == "RuntimeError: [hidden], [hidden], '[hidden]' at https://host/model.zip and [hidden]"
    settings = ModelSettings(storage_uri=uri, hf_token="hf_abc")
    assert describe_expected(RuntimeError("says hf_abc"), settings) == "says [hidden]"


@pytest.mark.parametrize(
    "named",
    ["{}", "'{}'", '"{}"', "({})", "at {}:12", "path={}", "file://{}"],
)
def test_a_reason_names_no_path_outside_the_models_folder(folder: Path, named: str) -> None:
    for outside in (folder.parent / "other" / "secret.txt", Path("/etc/passwd"), folder / ".." / "x",
                    Path(f"{folder}2") / "x"):  # fmt: skip
        told = _describe(OSError(f"cannot read {named.format(outside)}"), folder)
        assert "[hidden]" in told
        for part in (str(outside), outside.name, outside.parent.name):
            assert part not in told.replace("OSError", "")


def test_a_path_with_spaces_is_hidden_whole(folder: Path) -> None:
    assert _describe(FileNotFoundError(2, "No such file", "/a b/c d"), folder).endswith("No such file: '[hidden]'")


def test_a_reason_names_the_files_of_the_model(folder: Path) -> None:
    for file in (folder, folder / "config.json", folder / "1_Pooling" / "config.json"):
        assert str(file) in _describe(OSError(f"cannot read '{file}'"), folder)
        assert str(file) in _describe(OSError(f"cannot read {file}: why"), folder)

"""Promise: a load error is clear where the library's own message would mislead."""

from __future__ import annotations

from pathlib import Path

from hf_runtime.settings import ModelSettings
from runners.models.failures import make_load_error


def test_an_unreadable_file_is_not_reported_as_missing(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.touch()
    settings = ModelSettings(storage_uri=str(tmp_path))
    for error in (
        FileNotFoundError(f"No such file or directory: {weights}"),  # message of safetensors
        PermissionError(13, "Permission denied", str(weights)),
    ):
        message = str(make_load_error(error, settings))
        assert message == (
            f"{tmp_path}: model.safetensors may not be read by the user that this server runs as (chmod a+r)."
        )


def test_a_missing_file_is_reported_as_missing(tmp_path: Path) -> None:
    error = FileNotFoundError(f"No such file or directory: {tmp_path / 'model.safetensors'}")
    assert "lacks its file model.safetensors" in str(make_load_error(error, ModelSettings(storage_uri=str(tmp_path))))

"""Find a model's files in a local folder, and read its config."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage.custom_code import FILE as CUSTOM_PIPELINE
from runners.storage.custom_code import find_custom_pipeline
from runners.storage.files import choose_weights

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Model on disk.

    Attributes:
        folder: the model's folder.
        gguf_file: file in the folder with the weights and the tokenizer; None for other formats.
    """

    folder: Path
    gguf_file: str | None = None

    def list_weight_files(self) -> list[Path]:
        """Return the files that the weights are loaded from."""
        names = [path.name for path in self.folder.iterdir() if path.is_file()]
        return [self.folder / name for name in choose_weights(names, self.gguf_file)]


def find_checkpoint(path: Path, settings: ModelSettings) -> Checkpoint:
    """Return the model in a folder, or in a GGUF file.

    Raises:
        LoadError: there is no model, or there are several GGUF files and GGUF_FILE is not set.
    """
    wanted = settings.gguf_file
    if path.is_file():
        if path.suffix != ".gguf":
            raise LoadError(f"STORAGE_URI: {path} is neither a model folder nor a .gguf file.")
        return Checkpoint(path.parent, path.name)
    found = sorted(file.name for file in path.glob("*.gguf"))
    if wanted is not None:
        if not (path / wanted).is_file():
            raise LoadError(f"GGUF_FILE: {wanted} is not in {path}; it holds {', '.join(found) or 'no .gguf file'}.")
        return Checkpoint(path, wanted)
    if (path / CONFIG).is_file() and not _has_only_gguf_weights(path):
        return Checkpoint(path)
    if (path / ADAPTER_CONFIG).is_file() or find_custom_pipeline(path, settings) is not None:
        return Checkpoint(path)
    if len(found) == 1:
        return Checkpoint(path, found[0])
    if found:
        raise LoadError(f"{path} holds several GGUF files; choose one with GGUF_FILE: {', '.join(found)}.")
    if (path / CUSTOM_PIPELINE).is_file():
        raise LoadError(
            f"{path} holds a {CUSTOM_PIPELINE} and no model of its own; set TRUST_REMOTE_CODE=true, or "
            f"CUSTOM_PIPELINE={CUSTOM_PIPELINE}, if you trust it."
        )
    raise LoadError(f"{path} holds no config.json and no .gguf file; it is not a Hugging Face model folder.")


def read_local_config(checkpoint: Checkpoint, name: str = CONFIG) -> dict[str, Any] | None:
    """Read the model's config.json, or another JSON file of its folder.

    Returns:
        None if there is no such file, and for GGUF, because the folder's config may belong to another model.

    Raises:
        LoadError: the file is not JSON.
    """
    path = checkpoint.folder / name
    return parse_config(path.read_bytes(), str(path)) if checkpoint.gguf_file is None and path.is_file() else None


def parse_config(content: bytes, shown: str) -> dict[str, Any] | None:
    """Parse a JSON file; None if its content is not an object.

    Args:
        shown: name of the file in the message.

    Raises:
        LoadError: it is not JSON.
    """
    try:
        config = json.loads(content)
    except ValueError:
        raise LoadError(f"{shown} is not valid JSON; the model's files are damaged.") from None
    return config if isinstance(config, dict) else None


def _has_only_gguf_weights(path: Path) -> bool:
    return not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")) and any(path.glob("*.gguf"))

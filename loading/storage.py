"""Storage URI to a folder on this machine. One function a scheme."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from loading import LoadError
from loading.adapter import CONFIG as ADAPTER_CONFIG
from loading.custom_code import find_custom_pipeline
from loading.hub import download_from_hub, download_hub_config, parse_uri
from settings import ModelSettings

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk: its folder and, for GGUF, the file in it that holds the weights and the tokenizer."""

    folder: Path
    gguf_file: str | None = None


def fetch(settings: ModelSettings) -> Checkpoint:
    """Bring the model of `settings.storage_uri` to this machine, if it is not here already.

    Raises:
        LoadError: unknown scheme, nothing there, no access, or several GGUF files to choose from.
    """
    scheme = _scheme(settings.storage_uri)
    try:
        fetch_scheme = FETCHERS[scheme]
    except KeyError:
        known = ", ".join(f"{name}://" for name in FETCHERS if name)
        raise LoadError(
            f"STORAGE_URI: '{scheme}://' is not a known storage scheme; known are a local path, {known}."
        ) from None
    return _checkpoint(fetch_scheme(settings), settings)


def check_uri(settings: ModelSettings) -> None:
    """Refuse what can be seen to be wrong before any process is started, without the network.

    Raises:
        LoadError: as `fetch`; a model of the hub is only checked for the form of its URI.
    """
    if _scheme(settings.storage_uri) == "hf":
        parse_uri(settings)
    else:
        fetch(settings)


def read_config(settings: ModelSettings, name: str = CONFIG) -> dict[str, Any] | None:
    """The model's config.json, or another such file, without its weights; None if it has none.

    Raises:
        LoadError: as `fetch`, or the file is not JSON.
    """
    if _scheme(settings.storage_uri) == "hf":
        path = download_hub_config(settings, name)
        return None if path is None else _read_object(path)
    return local_config(fetch(settings), name)


def local_config(checkpoint: Checkpoint, name: str = CONFIG) -> dict[str, Any] | None:
    """The same of a model on this machine; None for GGUF, where one in the folder may be another model's.

    Raises:
        LoadError: the file is not JSON.
    """
    path = checkpoint.folder / name
    return _read_object(path) if checkpoint.gguf_file is None and path.is_file() else None


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise LoadError(f"{path} is not valid JSON; the model's files are damaged.") from None
    return config if isinstance(config, dict) else None


def _scheme(uri: str) -> str:
    return uri.split("://", 1)[0] if "://" in uri else ""


def _local(settings: ModelSettings) -> Path:
    uri = settings.storage_uri
    path = Path(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri).expanduser()
    if not path.exists():
        raise LoadError(
            f"STORAGE_URI: {path} does not exist; give a model folder, or hf://owner/model for a model of the hub."
        )
    return path.resolve()


FETCHERS: Mapping[str, Callable[[ModelSettings], Path]] = {"": _local, "file": _local, "hf": download_from_hub}


def _checkpoint(path: Path, settings: ModelSettings) -> Checkpoint:
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
    if (path / CONFIG).is_file() and not _only_gguf_weights(path):
        return Checkpoint(path)
    if (path / ADAPTER_CONFIG).is_file() or find_custom_pipeline(path, settings) is not None:
        return Checkpoint(path)
    if len(found) == 1:
        return Checkpoint(path, found[0])
    if found:
        raise LoadError(f"{path} holds several GGUF files; choose one with GGUF_FILE: {', '.join(found)}.")
    raise LoadError(f"{path} holds no config.json and no .gguf file; it is not a Hugging Face model folder.")


def _only_gguf_weights(path: Path) -> bool:
    return not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")) and any(path.glob("*.gguf"))

"""Storage URI to a folder on this machine. One function a scheme."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from loading import LoadError
from loading.adapter import CONFIG as ADAPTER_CONFIG
from loading.custom_code import FILE as CUSTOM_PIPELINE
from loading.custom_code import find_custom_pipeline
from loading.files import choose_for, choose_weights
from loading.hub import download_from_hub, download_hub_config, list_hub_files, parse_uri
from loading.object_store import ObjectSource
from loading.source import Source, UnreachableError
from loading.storage_cache import StorageCache
from loading.stores import is_azure_url, parse_location
from loading.uri import scheme_of, shown_uri
from loading.web import WebSource, web_host
from settings import ModelSettings

logger = logging.getLogger(__name__)

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk: its folder and, for GGUF, the file in it that holds the weights and the tokenizer."""

    folder: Path
    gguf_file: str | None = None

    def weight_files(self) -> list[Path]:
        """The files that its weights are loaded from."""
        names = [path.name for path in self.folder.iterdir() if path.is_file()]
        return [self.folder / name for name in choose_weights(names, self.gguf_file)]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that `fetch` brings.

    Attributes:
        path: from the model's folder, with forward slashes.
        size: bytes; None if the source does not say.
        cached: whether it is on this machine already.
    """

    path: str
    size: int | None
    cached: bool = False


def fetch(settings: ModelSettings) -> Checkpoint:
    """Bring the model of `settings.storage_uri` to this machine, if it is not here already.

    Raises:
        LoadError: unknown scheme, nothing there, no access, or several GGUF files to choose from.
    """
    return _checkpoint(_of_scheme(FETCHERS, settings)(settings), settings)


def list_files(settings: ModelSettings) -> list[RemoteFile]:
    """What `fetch` would bring, without bringing it; an archive is listed as itself.

    Raises:
        LoadError: as `fetch`.
    """
    scheme = scheme_of(settings.storage_uri)
    if scheme == "hf":
        return [RemoteFile(*file) for file in list_hub_files(settings)]
    if scheme in SOURCES:
        if settings.offline:
            return _list_folder(_fetch_copy(settings), settings)
        return [RemoteFile(file.path, file.size, here) for file, here in _cache(settings).listed()]
    return _list_folder(_of_scheme(FETCHERS, settings)(settings), settings)


def check_uri(settings: ModelSettings) -> None:
    """Refuse what can be seen to be wrong before any process is started, without the network.

    Raises:
        LoadError: as `fetch`; a model that is elsewhere is only checked for the form of its URI.
    """
    _of_scheme(CHECKS, settings)(settings)


def read_config(settings: ModelSettings, name: str = CONFIG) -> dict[str, Any] | None:
    """The model's config.json, or another such file, without its weights; None if it has none.

    Raises:
        LoadError: as `fetch`, or the file is not JSON.
    """
    scheme = scheme_of(settings.storage_uri)
    if scheme == "hf":
        path = download_hub_config(settings, name)
        return None if path is None else _read_object(path)
    if scheme in SOURCES:
        return _read_remote(settings, name)
    return local_config(fetch(settings), name)


def local_config(checkpoint: Checkpoint, name: str = CONFIG) -> dict[str, Any] | None:
    """The same of a model on this machine; None for GGUF, where one in the folder may be another model's.

    Raises:
        LoadError: the file is not JSON.
    """
    path = checkpoint.folder / name
    return _read_object(path) if checkpoint.gguf_file is None and path.is_file() else None


def _read_object(path: Path) -> dict[str, Any] | None:
    return _object(path.read_bytes(), str(path))


def _object(content: bytes, shown: str) -> dict[str, Any] | None:
    try:
        config = json.loads(content)
    except ValueError:
        raise LoadError(f"{shown} is not valid JSON; the model's files are damaged.") from None
    return config if isinstance(config, dict) else None


def _read_remote(settings: ModelSettings, name: str) -> dict[str, Any] | None:
    source = _source(settings)
    if source.is_folder and not settings.offline:
        try:
            content = source.read_small(name)
        except UnreachableError:
            # `fetch` knows whether a copy does as well, and says so.
            pass
        else:
            return None if content is None else _object(content, f"{source.shown}/{name}")
    return local_config(fetch(settings), name)


def _of_scheme(table: Mapping[str, Any], settings: ModelSettings) -> Callable[[ModelSettings], Any]:
    scheme = scheme_of(settings.storage_uri)
    if scheme not in table:
        known = ", ".join(f"{name}://" for name in table if name)
        raise LoadError(f"STORAGE_URI: '{scheme}://' is not a known storage scheme; known are a local path, {known}.")
    function: Callable[[ModelSettings], Any] = table[scheme]
    return function


def _local(settings: ModelSettings) -> Path:
    uri = settings.storage_uri
    path = Path(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri).expanduser()
    if not path.exists():
        raise LoadError(
            f"STORAGE_URI: {path} does not exist; give a model folder, or hf://owner/model for a model of the hub."
        )
    return path.resolve()


def _volume(settings: ModelSettings) -> Path:
    """A path on a volume, which is mounted under its claim's name or, by KServe's own containers, as itself."""
    claim, _, rest = settings.storage_uri.removeprefix("pvc://").partition("/")
    inner = PurePosixPath(rest.strip("/"))
    if not claim or ".." in (claim, *inner.parts):
        raise LoadError(f"STORAGE_URI: {settings.storage_uri} is not of the form pvc://claim/path.")
    places = [settings.pvc_dir / claim / inner, settings.pvc_dir / inner]
    # Without a path, the second place would be a folder of claims.
    for place in places if rest.strip("/") or not (settings.pvc_dir / claim).exists() else places[:1]:
        if place.exists():
            if not place.resolve().is_relative_to(settings.pvc_dir.resolve()):
                raise LoadError(f"STORAGE_URI: {place} leads out of {settings.pvc_dir}; give a path on the volume.")
            return place.resolve()
    raise LoadError(
        f"STORAGE_URI: neither {places[0]} nor {places[1]} exists: mount the claim {claim} at one of them, or set "
        "PVC_DIR."
    )


def _objects(settings: ModelSettings) -> Source:
    return ObjectSource(settings)


def _web(settings: ModelSettings) -> Source:
    if is_azure_url(settings.storage_uri):
        return ObjectSource(settings)
    return WebSource(settings.storage_uri, settings.storage_options)


def _check_objects(settings: ModelSettings) -> None:
    parse_location(settings.storage_uri)


def _check_web(settings: ModelSettings) -> None:
    if is_azure_url(settings.storage_uri):
        parse_location(settings.storage_uri)
    else:
        web_host(settings.storage_uri)


#: Places that are copied file by file.
SOURCES: Mapping[str, Callable[[ModelSettings], Source]] = {
    "s3": _objects,
    "gs": _objects,
    "az": _objects,
    "abfs": _objects,
    "abfss": _objects,
    "https": _web,
    "http": _web,
}


def _source(settings: ModelSettings) -> Source:
    return SOURCES[scheme_of(settings.storage_uri)](settings)


def _cache(settings: ModelSettings) -> StorageCache:
    return StorageCache(settings.storage_cache, _source(settings), partial(choose_for, settings))


def _fetch_copy(settings: ModelSettings) -> Path:
    cache = _cache(settings)
    if not settings.offline:
        return cache.fetch()
    if (known := cache.newest()) is None:
        raise LoadError(
            f"{shown_uri(settings.storage_uri)} is not in {settings.storage_cache} and HF_HUB_OFFLINE is set: fill the "
            "cache first, or let it connect."
        )
    return known


FETCHERS: Mapping[str, Callable[[ModelSettings], Path]] = {
    "": _local,
    "file": _local,
    "pvc": _volume,
    "hf": download_from_hub,
    **dict.fromkeys(SOURCES, _fetch_copy),
}

#: What of each scheme is checked without the network.
CHECKS: Mapping[str, Callable[[ModelSettings], object]] = {
    "": fetch,
    "file": fetch,
    "pvc": fetch,
    "hf": parse_uri,
    **{scheme: _check_web if scheme.startswith("http") else _check_objects for scheme in SOURCES},
}


def _list_folder(path: Path, settings: ModelSettings) -> list[RemoteFile]:
    checkpoint = _checkpoint(path, settings)
    folder = checkpoint.folder
    if path.is_file():
        return [RemoteFile(path.name, path.stat().st_size, cached=True)]
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    return [RemoteFile(name, sizes[name], cached=True) for name in sorted(choose_for(settings, sizes))]


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
    if (path / CUSTOM_PIPELINE).is_file():
        raise LoadError(
            f"{path} holds a {CUSTOM_PIPELINE} and no model of its own; set TRUST_REMOTE_CODE=true, or "
            f"CUSTOM_PIPELINE={CUSTOM_PIPELINE}, if you trust it."
        )
    raise LoadError(f"{path} holds no config.json and no .gguf file; it is not a Hugging Face model folder.")


def _only_gguf_weights(path: Path) -> bool:
    return not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")) and any(path.glob("*.gguf"))

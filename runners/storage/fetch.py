"""Fetch the model of a storage URI to this machine; SCHEMES lists the supported schemes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from hf_runtime.settings.uri import scheme_of
from runners.storage.checkpoint import CONFIG, Checkpoint, find_checkpoint, parse_config, read_local_config
from runners.storage.files import choose_model_files
from runners.storage.local import find_on_volume, find_path
from runners.storage.model_store import find_in_model_store
from runners.storage.source import ModelSource, UnreachableError
from runners.storage.storage_cache import StorageCache


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """File that `fetch` downloads.

    Attributes:
        path: from the model's folder, with forward slashes.
        size: bytes; None if unknown.
        cached: the file is on this machine already.
    """

    path: str
    size: int | None
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Scheme:
    """Operations on the URIs of one scheme.

    Attributes:
        check: refuses a wrong URI, without the network.
        fetch: downloads the model if necessary and returns its local folder or file.
        list_files: lists the files that `fetch` would download.
        read_config: reads a small JSON file of the model, without its weights.
    """

    check: Callable[[ModelSettings], object]
    fetch: Callable[[ModelSettings], Path]
    list_files: Callable[[ModelSettings], list[RemoteFile]]
    read_config: Callable[[ModelSettings, str], dict[str, Any] | None]


def fetch(settings: ModelSettings) -> Checkpoint:
    """Fetch the model of `settings.storage_uri`, unless it is on this machine already.

    Raises:
        LoadError: the scheme is unknown, there is no model or no access, or there are several GGUF files and
            GGUF_FILE is not set.
    """
    return find_checkpoint(_select_scheme(settings).fetch(settings), settings)


def list_files(settings: ModelSettings) -> list[RemoteFile]:
    """List the files that `fetch` would download; an archive counts as one file.

    Raises:
        LoadError: as `fetch`.
    """
    return _select_scheme(settings).list_files(settings)


def check_uri(settings: ModelSettings) -> None:
    """Refuse a wrong storage URI before any process is started, without the network.

    Raises:
        LoadError: as `fetch`; for a remote model only the form of the URI is checked.
    """
    _select_scheme(settings).check(settings)


def read_config(settings: ModelSettings, name: str = CONFIG) -> dict[str, Any] | None:
    """Read the model's config.json, or another JSON file, without fetching its weights.

    Returns:
        None if the model has no such file.

    Raises:
        LoadError: as `fetch`, or the file is not JSON.
    """
    return _select_scheme(settings).read_config(settings, name)


def _select_scheme(settings: ModelSettings) -> Scheme:
    name = scheme_of(settings.storage_uri)
    if name not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES if scheme)
        raise LoadError(f"STORAGE_URI: '{name}://' is not a known storage scheme; known are a local path, {known}.")
    return SCHEMES[name]()


def _make_local_scheme(find: Callable[[ModelSettings], Path]) -> Scheme:
    """Return the operations for models on this machine, which are not copied."""
    return Scheme(
        check=fetch,
        fetch=find,
        list_files=lambda settings: _list_local_files(find(settings), settings),
        read_config=lambda settings, name: read_local_config(fetch(settings), name),
    )


def _make_copying_scheme(
    make_source: Callable[[ModelSettings], ModelSource], check: Callable[[ModelSettings], object]
) -> Scheme:
    """Return the operations for models whose files are copied into STORAGE_CACHE."""

    def make_cache(settings: ModelSettings) -> StorageCache:
        choose = partial(choose_model_files, settings)
        return StorageCache(settings.storage_cache, make_source(settings), choose, settings.storage_cache_old_copies)

    def fetch_copy(settings: ModelSettings) -> Path:
        cache = make_cache(settings)
        if not settings.offline:
            return cache.fetch()
        if (latest := cache.find_latest()) is None:
            raise LoadError(
                f"{settings.shown_uri} is not in {settings.storage_cache} and HF_HUB_OFFLINE is set: fill "
                "the cache first, or let it connect."
            )
        return latest

    def list_copied(settings: ModelSettings) -> list[RemoteFile]:
        if settings.offline:
            return _list_local_files(fetch_copy(settings), settings)
        return [RemoteFile(file.path, file.size, cached) for file, cached in make_cache(settings).list_files()]

    def read_remote(settings: ModelSettings, name: str) -> dict[str, Any] | None:
        source = make_source(settings)
        if source.is_folder and not settings.offline:
            try:
                content = source.read_small(name)
            except UnreachableError:
                # `fetch` below uses a copy in the cache, or raises this error again.
                pass
            else:
                return None if content is None else parse_config(content, f"{source.shown}/{name}")
        return read_local_config(fetch(settings), name)

    return Scheme(check, fetch_copy, list_copied, read_remote)


def _list_local_files(path: Path, settings: ModelSettings) -> list[RemoteFile]:
    folder = find_checkpoint(path, settings).folder
    if path.is_file():
        return [RemoteFile(path.name, path.stat().st_size, cached=True)]
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    return [RemoteFile(name, sizes[name], cached=True) for name in sorted(choose_model_files(settings, sizes))]


# Clients of remote storage are imported only where they are used: huggingface_hub alone takes a third of a second and
# 15 MB of each process.


def _make_hub_scheme() -> Scheme:
    from runners.storage.hub import download_from_hub, download_hub_config, list_hub_files, parse_uri

    def list_on_hub(settings: ModelSettings) -> list[RemoteFile]:
        return [RemoteFile(*file) for file in list_hub_files(settings)]

    def read_on_hub(settings: ModelSettings, name: str) -> dict[str, Any] | None:
        path = download_hub_config(settings, name)
        return None if path is None else parse_config(path.read_bytes(), str(path))

    return Scheme(parse_uri, download_from_hub, list_on_hub, read_on_hub)


def _make_object_scheme() -> Scheme:
    from runners.storage.object_store import ObjectSource
    from runners.storage.stores import parse_location

    return _make_copying_scheme(ObjectSource, lambda settings: parse_location(settings.storage_uri))


def _make_web_scheme() -> Scheme:
    from runners.storage.object_store import ObjectSource
    from runners.storage.stores import is_azure_url, parse_location
    from runners.storage.web import WebSource, parse_host

    def make_source(settings: ModelSettings) -> ModelSource:
        if is_azure_url(settings.storage_uri):
            return ObjectSource(settings)
        return WebSource(settings.storage_uri, settings.storage_options)

    def check(settings: ModelSettings) -> object:
        uri = settings.storage_uri
        return parse_location(uri) if is_azure_url(uri) else parse_host(uri)

    return _make_copying_scheme(make_source, check)


SCHEMES: Mapping[str, Callable[[], Scheme]] = {
    "": partial(_make_local_scheme, find_path),
    "file": partial(_make_local_scheme, find_path),
    "pvc": partial(_make_local_scheme, find_on_volume),
    "bentoml": partial(_make_local_scheme, find_in_model_store),
    "hf": _make_hub_scheme,
    "s3": _make_object_scheme,
    "gs": _make_object_scheme,
    "az": _make_object_scheme,
    "abfs": _make_object_scheme,
    "abfss": _make_object_scheme,
    "https": _make_web_scheme,
    "http": _make_web_scheme,
}

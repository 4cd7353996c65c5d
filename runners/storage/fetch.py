"""Storage URI to a model on this machine. One line a scheme."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from hf_runtime.settings.uri import scheme_of
from runners.storage.checkpoint import CONFIG, Checkpoint, find_checkpoint, local_config, parse_config
from runners.storage.files import choose_for
from runners.storage.local import find_on_volume, find_path
from runners.storage.model_store import find_in_model_store
from runners.storage.source import ModelSource, UnreachableError
from runners.storage.storage_cache import StorageCache


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


@dataclass(frozen=True, slots=True)
class Scheme:
    """What can be done with URIs of one kind.

    Attributes:
        check: refuses what can be seen to be wrong without the network.
        fetch: the folder or file on this machine, brought there if need be.
        list_files: what `fetch` would bring.
        read_config: a small JSON file of the model, without its weights.
    """

    check: Callable[[ModelSettings], object]
    fetch: Callable[[ModelSettings], Path]
    list_files: Callable[[ModelSettings], list[RemoteFile]]
    read_config: Callable[[ModelSettings, str], dict[str, Any] | None]


def fetch(settings: ModelSettings) -> Checkpoint:
    """Bring the model of `settings.storage_uri` to this machine, if it is not here already.

    Raises:
        LoadError: unknown scheme, nothing there, no access, or several GGUF files to choose from.
    """
    return find_checkpoint(_scheme(settings).fetch(settings), settings)


def list_files(settings: ModelSettings) -> list[RemoteFile]:
    """What `fetch` would bring, without bringing it; an archive is listed as itself.

    Raises:
        LoadError: as `fetch`.
    """
    return _scheme(settings).list_files(settings)


def check_uri(settings: ModelSettings) -> None:
    """Refuse what can be seen to be wrong before any process is started, without the network.

    Raises:
        LoadError: as `fetch`; a model that is elsewhere is only checked for the form of its URI.
    """
    _scheme(settings).check(settings)


def read_config(settings: ModelSettings, name: str = CONFIG) -> dict[str, Any] | None:
    """The model's config.json, or another such file, without its weights; None if it has none.

    Raises:
        LoadError: as `fetch`, or the file is not JSON.
    """
    return _scheme(settings).read_config(settings, name)


def _scheme(settings: ModelSettings) -> Scheme:
    name = scheme_of(settings.storage_uri)
    if name not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES if known)
        raise LoadError(f"STORAGE_URI: '{name}://' is not a known storage scheme; known are a local path, {known}.")
    return SCHEMES[name]()


def _on_disk(find: Callable[[ModelSettings], Path]) -> Scheme:
    """Models that are served from where they are."""
    return Scheme(
        check=fetch,
        fetch=find,
        list_files=lambda settings: _list_found(find(settings), settings),
        read_config=lambda settings, name: local_config(fetch(settings), name),
    )


def _copied(source: Callable[[ModelSettings], ModelSource], check: Callable[[ModelSettings], object]) -> Scheme:
    """Models that are copied file by file into STORAGE_CACHE."""

    def cache(settings: ModelSettings) -> StorageCache:
        choose = partial(choose_for, settings)
        return StorageCache(settings.storage_cache, source(settings), choose, settings.storage_cache_old_copies)

    def copy(settings: ModelSettings) -> Path:
        copies = cache(settings)
        if not settings.offline:
            return copies.fetch()
        if (known := copies.newest()) is None:
            raise LoadError(
                f"{settings.shown_uri} is not in {settings.storage_cache} and HF_HUB_OFFLINE is set: fill "
                "the cache first, or let it connect."
            )
        return known

    def list_copied(settings: ModelSettings) -> list[RemoteFile]:
        if settings.offline:
            return _list_found(copy(settings), settings)
        return [RemoteFile(file.path, file.size, here) for file, here in cache(settings).listed()]

    def read(settings: ModelSettings, name: str) -> dict[str, Any] | None:
        place = source(settings)
        if place.is_folder and not settings.offline:
            try:
                content = place.read_small(name)
            except UnreachableError:
                # `fetch` knows whether a copy does as well, and says so.
                pass
            else:
                return None if content is None else parse_config(content, f"{place.shown}/{name}")
        return local_config(fetch(settings), name)

    return Scheme(check, copy, list_copied, read)


def _list_found(path: Path, settings: ModelSettings) -> list[RemoteFile]:
    folder = find_checkpoint(path, settings).folder
    if path.is_file():
        return [RemoteFile(path.name, path.stat().st_size, cached=True)]
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    return [RemoteFile(name, sizes[name], cached=True) for name in sorted(choose_for(settings, sizes))]


# What brings models from elsewhere is imported where it is asked for: huggingface_hub alone takes a third of a second,
# and 15 MB of each process.


def _hub() -> Scheme:
    from runners.storage.hub import download_from_hub, download_hub_config, list_hub_files, parse_uri

    def list_on_hub(settings: ModelSettings) -> list[RemoteFile]:
        return [RemoteFile(*file) for file in list_hub_files(settings)]

    def read_on_hub(settings: ModelSettings, name: str) -> dict[str, Any] | None:
        path = download_hub_config(settings, name)
        return None if path is None else parse_config(path.read_bytes(), str(path))

    return Scheme(parse_uri, download_from_hub, list_on_hub, read_on_hub)


def _objects() -> Scheme:
    from runners.storage.object_store import ObjectSource
    from runners.storage.stores import parse_location

    return _copied(ObjectSource, lambda settings: parse_location(settings.storage_uri))


def _web() -> Scheme:
    from runners.storage.object_store import ObjectSource
    from runners.storage.stores import is_azure_url, parse_location
    from runners.storage.web import WebSource, web_host

    def source(settings: ModelSettings) -> ModelSource:
        if is_azure_url(settings.storage_uri):
            return ObjectSource(settings)
        return WebSource(settings.storage_uri, settings.storage_options)

    def check(settings: ModelSettings) -> object:
        uri = settings.storage_uri
        return parse_location(uri) if is_azure_url(uri) else web_host(uri)

    return _copied(source, check)


SCHEMES: Mapping[str, Callable[[], Scheme]] = {
    "": partial(_on_disk, find_path),
    "file": partial(_on_disk, find_path),
    "pvc": partial(_on_disk, find_on_volume),
    "bentoml": partial(_on_disk, find_in_model_store),
    "hf": _hub,
    "s3": _objects,
    "gs": _objects,
    "az": _objects,
    "abfs": _objects,
    "abfss": _objects,
    "https": _web,
    "http": _web,
}

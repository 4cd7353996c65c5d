"""Models of the Hugging Face hub, with huggingface_hub's own cache, locks and resumption."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import (
    _CACHED_NO_EXIST,
    HfApi,
    get_cached_repo_tree,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from loading import LoadError
from settings import ModelSettings

logger = logging.getLogger(__name__)

_URI = re.compile(r"hf://(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?::(?P<revision>[^\s:]*[^\s:/]))?/?")

#: Weights that transformers loads, best first. Exact names, because a repository may hold the same weights again as
#: consolidated.safetensors, in another precision, or in a folder.
_WEIGHTS = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"),
    re.compile(r".+\.safetensors"),
)

#: What serving reads beside the weights; leaves out onnx/, tf_model.h5, flax_model.msgpack and the like.
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.spm", "*.jinja", "*.py", "*.tiktoken"]


def parse_uri(settings: ModelSettings) -> tuple[str, str | None]:
    """Repository and revision of `hf://[owner/]model[:revision]`.

    Raises:
        LoadError: the URI is not of that form, or MODEL_REVISION names another revision.
    """
    match = _URI.fullmatch(settings.storage_uri)
    if match is None:
        raise LoadError(f"STORAGE_URI: {settings.storage_uri} is not of the form hf://[owner/]model[:revision].")
    revision = match["revision"]
    if revision and settings.revision and revision != settings.revision:
        raise LoadError(
            f"STORAGE_URI asks for revision {revision} and MODEL_REVISION for {settings.revision}; give one of them."
        )
    return match["repo"], revision or settings.revision


def download_from_hub(settings: ModelSettings) -> Path:
    """Download the files that serving needs and return the snapshot's folder.

    While the hub is down, or HF_HUB_OFFLINE is set, a complete copy in the cache does as well.

    Raises:
        LoadError: no such repository or revision, no access to it, or no network and nothing cached.
    """
    repo, revision = parse_uri(settings)
    try:
        return _download(repo, revision, settings)
    except Exception as error:
        raise _explained(error, repo, revision) from error


def download_hub_config(settings: ModelSettings, name: str) -> Path | None:
    """Download one small file alone; None if the repository has none of that name.

    Raises:
        LoadError: as `download_from_hub`.
    """
    repo, revision = parse_uri(settings)
    try:
        return Path(
            hf_hub_download(repo, name, revision=revision, cache_dir=settings.cache_dir, token=_token(settings))
        )
    except LocalEntryNotFoundError as error:
        known = try_to_load_from_cache(repo, name, cache_dir=settings.cache_dir, revision=revision)
        if known is _CACHED_NO_EXIST:
            return None
        raise _explained(error, repo, revision) from error
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise _explained(error, repo, revision) from error


def _download(repo: str, revision: str | None, settings: ModelSettings) -> Path:
    token = _token(settings)
    try:
        files = HfApi().list_repo_files(repo, revision=revision, token=token)
    except Exception as error:
        if _is_an_answer(error):
            raise
        return _cached(repo, revision, settings, error)
    patterns = [*_SMALL_FILES, *_weights(files, settings.gguf_file)]
    return Path(
        snapshot_download(repo, revision=revision, cache_dir=settings.cache_dir, token=token, allow_patterns=patterns)
    )


def _cached(repo: str, revision: str | None, settings: ModelSettings, reason: Exception) -> Path:
    """The snapshot in the cache if it is complete, else `reason`: why the hub could not be asked."""
    patterns = None
    # A cache filled by an older huggingface_hub, or file by file, has no listing to check it against.
    with suppress(CachedRepoTreeNotFoundError):
        files = [file.path for file in get_cached_repo_tree(repo, revision=revision, cache_dir=settings.cache_dir)]
        patterns = [*_SMALL_FILES, *_weights(files, settings.gguf_file)]
    try:
        path = snapshot_download(
            repo, revision=revision, cache_dir=settings.cache_dir, local_files_only=True, allow_patterns=patterns
        )
    except LocalEntryNotFoundError:
        raise reason from None
    if not isinstance(reason, OfflineModeIsEnabled):
        logger.warning("%s: the hub cannot be reached, the copy in the cache is served.", repo)
    return Path(path)


def _is_an_answer(error: Exception) -> bool:
    """Whether the hub, or its client's check, has said no: the cache is no way round that."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code < 500 and error.response.status_code != HTTPStatus.TOO_MANY_REQUESTS
    return isinstance(error, HFValidationError)


def _token(settings: ModelSettings) -> str | None:
    return settings.hf_token.get_secret_value() if settings.hf_token else None


def _weights(files: list[str], gguf_file: str | None) -> list[str]:
    """The files of one kind of weights: safetensors before pickles; GGUF if it is named or there is nothing else."""
    top = [file for file in files if "/" not in file]
    ggufs = sorted(file for file in top if file.endswith(".gguf"))
    if gguf_file is not None:
        if gguf_file not in files:
            raise LoadError(
                f"GGUF_FILE: {gguf_file} is not in the repository; it holds {', '.join(ggufs) or 'no .gguf file'}."
            )
        return [gguf_file]
    for pattern in _WEIGHTS:
        if chosen := [file for file in top if pattern.fullmatch(file)]:
            return chosen
    if len(ggufs) > 1:
        raise LoadError(f"the repository holds several GGUF files; choose one with GGUF_FILE: {', '.join(ggufs)}.")
    return ggufs


def _explained(error: Exception, repo: str, revision: str | None) -> LoadError:
    at = f"{repo} (revision {revision})" if revision else repo
    match error:
        case LoadError():
            return error
        case GatedRepoError():
            return LoadError(
                f"{repo} is gated: accept its terms on the hub and set HF_TOKEN to a token of that account."
            )
        case RepositoryNotFoundError():
            return LoadError(f"{repo} does not exist on the hub, or is private: check the name, or set HF_TOKEN.")
        case RevisionNotFoundError():
            return LoadError(f"{repo} has no revision {revision} on the hub.")
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return LoadError(
                f"{at} is not in the cache and the hub cannot be reached: connect, or fill the cache first."
            )
        case HFValidationError():
            return LoadError(f"STORAGE_URI: {repo} is not a valid repository name.")
        case HfHubHTTPError() if error.response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return LoadError(f"the hub refuses access to {at}: check that HF_TOKEN is valid and may read it.")
        case HfHubHTTPError():
            return LoadError(f"the hub answered status {error.response.status_code} for {at}: try again later.")
        case _:
            # The message of an unknown error may hold anything, a token included.
            return LoadError(f"{at} is not in the cache and could not be downloaded: {type(error).__name__}.")

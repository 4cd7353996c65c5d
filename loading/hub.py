"""Models of the Hugging Face hub, with huggingface_hub's own cache, locks and resumption."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
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

_URI = re.compile(r"hf://(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?::(?P<revision>[^\s:]+))?/?")

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

    Raises:
        LoadError: no such repository or revision, no access to it, or no network and nothing cached.
    """
    repo, revision = parse_uri(settings)
    token = _token(settings)
    try:
        if constants.HF_HUB_OFFLINE:
            return Path(snapshot_download(repo, revision=revision, cache_dir=settings.cache_dir, local_files_only=True))
        files = HfApi().list_repo_files(repo, revision=revision, token=token)
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                cache_dir=settings.cache_dir,
                token=token,
                allow_patterns=[*_SMALL_FILES, *_weights(files, settings.gguf_file)],
            )
        )
    except Exception as error:
        raise _explained(error, repo, revision) from error


def download_hub_config(settings: ModelSettings) -> Path | None:
    """Download config.json alone; None if the repository has none.

    Raises:
        LoadError: as `download_from_hub`.
    """
    repo, revision = parse_uri(settings)
    try:
        return Path(
            hf_hub_download(
                repo, "config.json", revision=revision, cache_dir=settings.cache_dir, token=_token(settings)
            )
        )
    except LocalEntryNotFoundError as error:
        raise _explained(error, repo, revision) from error
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise _explained(error, repo, revision) from error


def _token(settings: ModelSettings) -> str | None:
    return settings.hf_token.get_secret_value() if settings.hf_token else None


def _weights(files: list[str], gguf_file: str | None) -> list[str]:
    """Patterns of one kind of weights: safetensors before pickles, GGUF only if there is nothing else or it is named."""
    top = [file for file in files if "/" not in file]
    if gguf_file is not None:
        return [gguf_file]
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if any(fnmatch(file, pattern) for file in top):
            return [pattern]
    ggufs = [file for file in top if file.endswith(".gguf")]
    if len(ggufs) > 1:
        raise LoadError(f"the repository holds several GGUF files; choose one with GGUF_FILE: {', '.join(ggufs)}.")
    return ggufs


def _explained(error: Exception, repo: str, revision: str | None) -> LoadError:
    at = f"{repo}, revision {revision}," if revision else repo
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
        case HfHubHTTPError():
            status = error.response.status_code if error.response is not None else "no"
            return LoadError(f"the hub answered status {status} for {at} try again later, or check HF_TOKEN.")
        case _:
            return LoadError(f"{at} could not be downloaded from the hub: {type(error).__name__}.")

"""Download models from the Hugging Face hub.

huggingface_hub provides the cache, the locks and the resumption of downloads.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import re
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import (
    _CACHED_NO_EXIST,
    HfApi,
    constants,
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
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import tqdm

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from hf_runtime.settings.uri import redact_logged_urls
from runners.storage.disk import check_space, is_disk_full, make_no_space_error
from runners.storage.files import choose_model_files
from runners.storage.progress import Progress
from runners.storage.source import UnreachableError

logger = logging.getLogger(__name__)

# These loggers log every URL, and the URL of a file is signed.
redact_logged_urls("httpx2", "huggingface_hub.file_download", "huggingface_hub.utils._http")

_URI = re.compile(r"hf://(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?::(?P<revision>[^\s:]*[^\s:/]))?/?")


def parse_uri(settings: ModelSettings) -> tuple[str, str | None]:
    """Return repository and revision of `hf://[owner/]model[:revision]`.

    Raises:
        LoadError: the URI is not of that form, or MODEL_REVISION names another revision.
    """
    match = _URI.fullmatch(settings.storage_uri)
    if match is None:
        raise LoadError(f"STORAGE_URI: {settings.shown_uri} is not of the form hf://[owner/]model[:revision].")
    revision = match["revision"]
    if revision and settings.revision and revision != settings.revision:
        raise LoadError(
            f"STORAGE_URI asks for revision {revision} and MODEL_REVISION for {settings.revision}; give one of them."
        )
    return match["repo"], revision or settings.revision


def download_from_hub(settings: ModelSettings) -> Path:
    """Download the files that serving needs and return the snapshot's folder.

    If the hub cannot be reached, or HF_HUB_OFFLINE is set, a complete copy in the cache is used.

    Raises:
        LoadError: the repository or revision does not exist or refuses access, the disk is full, or there is neither a
            network nor a copy in the cache.
    """
    repo, revision = parse_uri(settings)
    try:
        return _download(repo, revision, settings)
    except OSError as error:
        if is_disk_full(error):
            raise make_no_space_error(_cache_folder(settings), repo) from None
        raise _make_load_error(error, repo, revision, offline=settings.offline) from error
    except Exception as error:
        raise _make_load_error(error, repo, revision, offline=settings.offline) from error


def list_hub_files(settings: ModelSettings) -> list[tuple[str, int, bool]]:
    """List the files of `download_from_hub`: path, size in bytes, True if in the cache.

    Raises:
        LoadError: as `download_from_hub`.
    """
    repo, revision = parse_uri(settings)
    try:
        wanted = _choose_files(settings, (_list_cached if settings.offline else _list_remote)(repo, revision, settings))
    except Exception as error:
        raise _make_load_error(error, repo, revision, offline=settings.offline) from error
    return [(file.path, file.size, _is_cached(repo, file.path, revision, settings)) for file in wanted]


def download_hub_config(settings: ModelSettings, name: str) -> Path | None:
    """Download one small file; None if the repository has no file of that name.

    Raises:
        LoadError: as `download_from_hub`.
    """
    repo, revision = parse_uri(settings)
    try:
        return Path(
            hf_hub_download(
                repo,
                name,
                revision=revision,
                cache_dir=settings.cache_dir,
                token=_token(settings),
                endpoint=settings.hf_endpoint,
                local_files_only=settings.offline,
            )
        )
    except LocalEntryNotFoundError as error:
        cached = try_to_load_from_cache(repo, name, cache_dir=settings.cache_dir, revision=revision)
        if cached is _CACHED_NO_EXIST:
            return None
        raise _make_load_error(error, repo, revision, offline=settings.offline) from error
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise _make_load_error(error, repo, revision, offline=settings.offline) from error


def _download(repo: str, revision: str | None, settings: ModelSettings) -> Path:
    if settings.offline:
        return _find_cached_snapshot(repo, revision, settings, OfflineModeIsEnabled())
    try:
        wanted = _choose_files(settings, _list_remote(repo, revision, settings))
    except Exception as error:
        if _is_refusal(error):
            raise
        return _find_cached_snapshot(repo, revision, settings, error)
    missing = [file for file in wanted if not _is_cached(repo, file.path, revision, settings)]
    if not missing:
        return _download_snapshot(repo, revision, settings, wanted)
    total = sum(file.size for file in missing)
    # huggingface_hub only warns about a disk that is too small, and fails after hours.
    check_space(_cache_folder(settings), total, repo)
    with Progress(repo, total) as progress:
        folder = _download_snapshot(repo, revision, settings, wanted, tqdm_class=_make_silent_bar(progress))
        for file in missing:
            _verify_download(folder / file.path, file, repo)
    return folder


def _list_remote(repo: str, revision: str | None, settings: ModelSettings) -> list[RepoFile]:
    api = HfApi(endpoint=settings.hf_endpoint, token=_token(settings))
    return [
        entry for entry in api.list_repo_tree(repo, recursive=True, revision=revision) if isinstance(entry, RepoFile)
    ]


def _list_cached(repo: str, revision: str | None, settings: ModelSettings) -> list[RepoFile]:
    try:
        return get_cached_repo_tree(repo, revision=revision, cache_dir=settings.cache_dir)
    except CachedRepoTreeNotFoundError:
        raise OfflineModeIsEnabled from None


def _choose_files(settings: ModelSettings, files: Sequence[RepoFile]) -> list[RepoFile]:
    chosen = set(choose_model_files(settings, [file.path for file in files]))
    return [file for file in files if file.path in chosen]


def _download_snapshot(
    repo: str, revision: str | None, settings: ModelSettings, wanted: Iterable[RepoFile], **more: Any
) -> Path:
    return Path(
        snapshot_download(
            repo,
            revision=revision,
            cache_dir=settings.cache_dir,
            token=_token(settings),
            endpoint=settings.hf_endpoint,
            allow_patterns=[glob.escape(file.path) for file in wanted],
            **more,
        )
    )


def _find_cached_snapshot(repo: str, revision: str | None, settings: ModelSettings, reason: Exception) -> Path:
    """Return the snapshot in the cache if it is complete.

    Args:
        reason: the error of the request to the hub.

    Raises:
        Exception: `reason`, if the snapshot is incomplete or missing.
    """
    patterns = None
    # A cache from an older huggingface_hub, or of single files, has no list of files to check it against.
    with suppress(CachedRepoTreeNotFoundError):
        files = get_cached_repo_tree(repo, revision=revision, cache_dir=settings.cache_dir)
        patterns = [glob.escape(file.path) for file in _choose_files(settings, files)]
    try:
        path = snapshot_download(
            repo, revision=revision, cache_dir=settings.cache_dir, local_files_only=True, allow_patterns=patterns
        )
    except LocalEntryNotFoundError:
        raise reason from None
    if not isinstance(reason, OfflineModeIsEnabled):
        logger.warning("%s: the hub cannot be reached; using the copy in the cache.", repo)
    return Path(path)


def _is_cached(repo: str, path: str, revision: str | None, settings: ModelSettings) -> bool:
    return isinstance(try_to_load_from_cache(repo, path, cache_dir=settings.cache_dir, revision=revision), str)


def _cache_folder(settings: ModelSettings) -> Path:
    return settings.cache_dir if settings.cache_dir is not None else Path(constants.HF_HUB_CACHE)


def _make_silent_bar(progress: Progress) -> type[tqdm]:
    """Return a progress bar class that shows nothing and reports the bytes to `progress`.

    A bar is the only way to get the progress of huggingface_hub, which shows it only on a terminal.
    """

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # Two bars count the same bytes: received and written. Only the one for written bytes is counted.
            self._counts = str(options.get("desc")).startswith("Reconstruct")
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if self._counts:
                progress.add(int(n or 0))

    return Bar


def _verify_download(path: Path, file: RepoFile, repo: str) -> None:
    """Compare a downloaded file with its listed size and hash; delete it if they differ.

    huggingface_hub compares it only with the headers of the download itself.

    Raises:
        LoadError: they differ.
    """
    same = path.stat().st_size == file.size
    if same and file.lfs is not None:
        with path.open("rb") as content:
            same = hashlib.file_digest(content, "sha256").hexdigest() == file.lfs.sha256
    if not same:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise LoadError(f"{repo}: {file.path} came damaged (other size or SHA-256): start again to fetch it again.")


def _is_refusal(error: BaseException) -> bool:
    """Return True if the hub or its client refused the request; then the cache is not used."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status < 500 and status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT)
    return isinstance(error, HFValidationError)


def _token(settings: ModelSettings) -> str | None:
    return settings.hf_token.get_secret_value() if settings.hf_token else None


def _make_load_error(error: Exception, repo: str, revision: str | None, *, offline: bool) -> LoadError:
    at = f"{repo} (revision {revision})" if revision else repo
    if isinstance(error, LocalEntryNotFoundError) and (answer := error.__cause__) and _is_refusal(answer):
        # huggingface_hub reports the refusal of a single file as a missing file in the cache.
        assert isinstance(answer, Exception)
        return _make_load_error(answer, repo, revision, offline=offline)
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
        case LocalEntryNotFoundError() | OfflineModeIsEnabled() | httpx2.ConnectError():
            # Offline by the operator's choice is permanent, so no retry can help.
            kind = LoadError if offline or isinstance(error, OfflineModeIsEnabled) else UnreachableError
            return kind(f"{at} is not in the cache and the hub cannot be reached: connect, or fill the cache first.")
        case HFValidationError():
            return LoadError(f"STORAGE_URI: {repo} is not a valid repository name.")
        case HfHubHTTPError() if error.response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return LoadError(f"the hub refuses access to {at}: check that HF_TOKEN is valid and may read it.")
        case HfHubHTTPError():
            kind = LoadError if _is_refusal(error) else UnreachableError
            return kind(f"the hub answered status {error.response.status_code} for {at}: try again later.")
        case OSError() if "Consistency check failed" in str(error):
            return LoadError(f"{at}: a file came in another size than the hub says: start again to fetch it again.")
        case httpx2.TransportError():
            return UnreachableError(f"{at} is not in the cache and the hub hung up again and again: check the network.")
        case TimeoutError() | ConnectionError() | socket.gaierror():
            return UnreachableError(f"{at} is not in the cache and the hub cannot be reached: check the network.")
        case _:
            # The message of an unknown error may contain a token, so only its type is shown.
            return LoadError(f"{at} is not in the cache and could not be downloaded: {type(error).__name__}.")

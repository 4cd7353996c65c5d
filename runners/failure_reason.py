"""Reasons of load failures, in one line without secrets, for clients and the log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hf_runtime.contract.errors import LoadError
from hf_runtime.observability.setup import HIDDEN, hide
from hf_runtime.settings import ModelSettings
from hf_runtime.settings.uri import is_local, shown_uri
from runners.storage.fetch import fetch

#: Maximum length of a reason in characters.
_MAX_LENGTH = 300
#: A URL, a path in quotes, which may contain spaces, or a path without quotes.
_URL_OR_PATH = re.compile(r"""(?P<url>\w+://[^\s"'<>]+)|(?P<quote>["'`])(?P<quoted>[~/][^"'`]*)(?P=quote)|"""
                          r"""(?<![\w.)\]])(?P<path>~?/[\w.@+=%~-][^\s"'`<>:;,()\[\]{}]*)""")  # fmt: skip


def describe_unexpected(error: Exception, settings: ModelSettings) -> str:
    """Return the type and first line of an unexpected error, for clients.

    Secrets and paths outside the model's folders are hidden.
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    # Before URLs and paths are shortened: the rest of a shortened secret would not be recognized.
    line = hide(line, settings.secrets)
    roots = _model_folders(settings)
    line = _URL_OR_PATH.sub(lambda match: _redact(match, roots), line)
    return ": ".join(part for part in (type(error).__name__, line) if part)[:_MAX_LENGTH]


def describe_expected(error: Exception, settings: ModelSettings) -> str:
    """Return the message of an error written for the operator, without secrets.

    Libraries may have put secrets into it.
    """
    return hide(str(error), settings.secrets)


def _redact(match: re.Match[str], roots: Sequence[Path]) -> str:
    if (url := match["url"]) is not None:
        return HIDDEN if url.startswith("file:") else shown_uri(url)
    path, quote = match["quoted"] or match["path"], match["quote"] or ""
    inside = any(Path(path).is_relative_to(root) for root in roots) and ".." not in Path(path).parts
    return f"{quote}{path if inside else HIDDEN}{quote}"


def _model_folders(settings: ModelSettings) -> Sequence[Path]:
    """Return the folders that hold files of the model."""
    if not is_local(settings.storage_uri):
        caches = (settings.storage_cache.expanduser(), settings.cache_dir)
        return [cache for cache in caches if cache is not None]
    with suppress(LoadError, OSError):
        folder = fetch(settings).folder
        return [folder, Path(settings.storage_uri)] if folder.is_dir() else []
    return []

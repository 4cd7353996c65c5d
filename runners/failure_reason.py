"""Why a model could not be loaded, in one line that anyone may read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hf_runtime.contract.errors import LoadError
from hf_runtime.observability.setup import HIDDEN, hide
from hf_runtime.settings import ModelSettings
from hf_runtime.settings.uri import is_on_disk, shown_uri
from runners.storage.fetch import fetch

#: Characters that are shown.
_LONGEST = 300
#: An address, a path in quotes, which may have spaces in it, or one without.
_PLACE = re.compile(r"""(?P<address>\w+://[^\s"'<>]+)|(?P<quote>["'`])(?P<quoted>[~/][^"'`]*)(?P=quote)|"""
                    r"""(?<![\w.)\]])(?P<path>~?/[\w.@+=%~-][^\s"'`<>:;,()\[\]{}]*)""")  # fmt: skip


def unforeseen(error: Exception, settings: ModelSettings) -> str:
    """Describe an error that nobody has words for: its type and first line, without secrets and foreign paths."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    # Before places are cut: what is left of a secret would not be known as one.
    line = hide(line, settings.secrets)
    roots = _roots(settings)
    line = _PLACE.sub(lambda found: _shown(found, roots), line)
    return ": ".join(part for part in (type(error).__name__, line) if part)[:_LONGEST]


def foreseen(error: Exception, settings: ModelSettings) -> str:
    """The sentence of an error that was made for an operator, without secrets that a library may have put into it."""
    return hide(str(error), settings.secrets)


def _shown(found: re.Match[str], roots: Sequence[Path]) -> str:
    if (address := found["address"]) is not None:
        return HIDDEN if address.startswith("file:") else shown_uri(address)
    path, quote = found["quoted"] or found["path"], found["quote"] or ""
    inside = any(Path(path).is_relative_to(root) for root in roots) and ".." not in Path(path).parts
    return f"{quote}{path if inside else HIDDEN}{quote}"


def _roots(settings: ModelSettings) -> Sequence[Path]:
    """Folders in which a path is one of the model's own."""
    if not is_on_disk(settings.storage_uri):
        caches = (settings.storage_cache.expanduser(), settings.cache_dir)
        return [cache for cache in caches if cache is not None]
    with suppress(LoadError, OSError):
        folder = fetch(settings).folder
        return [folder, Path(settings.storage_uri)] if folder.is_dir() else []
    return []

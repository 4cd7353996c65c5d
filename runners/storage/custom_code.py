"""Find the custom pipeline of a model: code in `custom_pipeline.py`."""

from __future__ import annotations

from pathlib import Path, PurePath

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings

FILE = "custom_pipeline.py"


def find_allowed_pipeline(settings: ModelSettings) -> str | None:
    """Return the name of the custom pipeline file that the settings allow to run."""
    return settings.custom_pipeline or (FILE if settings.trust_remote_code else None)


def find_custom_pipeline(folder: Path, settings: ModelSettings) -> Path | None:
    """Return the custom pipeline to run; None if there is none or it is not allowed.

    Raises:
        LoadError: CUSTOM_PIPELINE names a file that does not exist or is outside the folder.
    """
    if settings.custom_pipeline is not None:
        name = PurePath(settings.custom_pipeline)
        path = folder / name
        # Only the name is checked: in the hub's cache and on mounted volumes, files are links out of the folder.
        if name.is_absolute() or ".." in name.parts or not path.is_file():
            uri = settings.shown_uri
            raise LoadError(f"CUSTOM_PIPELINE: {uri} holds no file {settings.custom_pipeline}.")
        return path
    path = folder / FILE
    return path if settings.trust_remote_code and path.is_file() else None

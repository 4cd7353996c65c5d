"""Find the pipeline that a model brings as code: `custom_pipeline.py`."""

from __future__ import annotations

from pathlib import Path, PurePath

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings

FILE = "custom_pipeline.py"


def allowed_pipeline(settings: ModelSettings) -> str | None:
    """The file with a custom pipeline that the operator lets run, if the model has it."""
    return settings.custom_pipeline or (FILE if settings.trust_remote_code else None)


def find_custom_pipeline(folder: Path, settings: ModelSettings) -> Path | None:
    """The file to run; None if there is none, or the operator does not let it run.

    Raises:
        LoadError: CUSTOM_PIPELINE names a file that is not there, or not in the folder.
    """
    if settings.custom_pipeline is not None:
        name = PurePath(settings.custom_pipeline)
        path = folder / name
        # By its name alone: in the hub's cache and on mounted volumes, the files of a folder are links out of it.
        if name.is_absolute() or ".." in name.parts or not path.is_file():
            uri = settings.shown_uri
            raise LoadError(f"CUSTOM_PIPELINE: {uri} holds no file {settings.custom_pipeline}.")
        return path
    path = folder / FILE
    return path if settings.trust_remote_code and path.is_file() else None

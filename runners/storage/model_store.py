"""Models in BentoML's own store, where a Bento keeps those that are a part of it."""

from __future__ import annotations

from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings


def find_in_model_store(settings: ModelSettings) -> Path:
    """The folder of `bentoml://name:version`; without a version, of the newest.

    Raises:
        LoadError: it is not in the store, or the tag is none.
    """
    tag = settings.storage_uri.removeprefix("bentoml://")
    try:
        return Path(bentoml.models.get(tag).path)
    except (BentoMLException, ValueError):
        raise LoadError(
            f"STORAGE_URI: {settings.shown_uri} is not in BentoML's model store; `bentoml models list` shows what is."
        ) from None

"""Find models in BentoML's model store, which contains the models of a Bento."""

from __future__ import annotations

from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings


def find_in_model_store(settings: ModelSettings) -> Path:
    """Return the folder of `bentoml://name:version`; without a version, of the latest one.

    Raises:
        LoadError: the model is not in the store, or the tag is invalid.
    """
    tag = settings.storage_uri.removeprefix("bentoml://")
    try:
        return Path(bentoml.models.get(tag).path)
    except (BentoMLException, ValueError):
        raise LoadError(
            f"STORAGE_URI: {settings.shown_uri} is not in BentoML's model store; `bentoml models list` shows what is."
        ) from None

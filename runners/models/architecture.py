"""Infer the task of a checkpoint from its config.json alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_runtime.contract.errors import LoadError
from hf_runtime.contract.tasks import TASKS
from hf_runtime.settings import ModelSettings, Task
from runners.models.adapter import read_adapter_task
from runners.storage.checkpoint import ADAPTER_CONFIG
from runners.storage.fetch import fetch, read_config

#: Endings of class names, the longest first, as one may end in another.
_HEADS: Sequence[tuple[str, str]] = sorted(
    ((head, spec.name) for spec in TASKS.values() for head in spec.heads), key=lambda head: -len(head[0])
)


def infer_task(config: dict[str, Any]) -> Task | None:
    """Return the task of the head that `architectures[0]` names; None if it is not clear."""
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        return None
    name = architectures[0]
    if name in ("T5WithLMHeadModel", "EncoderDecoderModel"):
        return "text2text-generation"
    if name.endswith("EncoderDecoderModel"):
        # For images or speech.
        return None
    for suffix, task in _HEADS:
        if name.endswith(suffix):
            if suffix == "ForConditionalGeneration" and not config.get("is_encoder_decoder"):
                return None
            return task
    return None


def resolve_task(settings: ModelSettings, *, own_code: bool = False) -> ModelSettings:
    """Return the settings with the task of the model filled in where TASK is not set.

    Args:
        own_code: the model may have a custom pipeline, so the task may stay unset.

    Raises:
        LoadError: the task cannot be inferred; the message lists the tasks.
    """
    if settings.task is not None:
        return settings
    config = read_config(settings)
    task = (infer_task(config) if config is not None else None) or _infer_task_without_config(settings)
    if task is None and not own_code:
        raise LoadError(
            f"TASK is not set and {settings.shown_uri} does not say its task; set TASK to one of {_join_task_names()}."
        )
    return settings.model_copy(update={"task": task})


def check_requested_task(settings: ModelSettings) -> None:
    """Refuse a TASK that needs a custom pipeline if the model has none.

    Raises:
        LoadError: the message lists the tasks.
    """
    if settings.task is None and settings.requested_task is not None:
        raise LoadError(
            f"TASK: {settings.shown_uri} has no custom pipeline for {settings.requested_task}; "
            f"without one, TASK is one of {_join_task_names()}."
        )


def _join_task_names() -> str:
    return ", ".join(TASKS)


def _infer_task_without_config(settings: ModelSettings) -> Task | None:
    """Return the task of an adapter or a GGUF file, which have no config.json."""
    adapter = read_config(settings, ADAPTER_CONFIG)
    if adapter is not None:
        return read_adapter_task(adapter)
    if settings.storage_uri.startswith("hf://"):
        return "text-generation" if settings.gguf_file or "gguf" in settings.storage_uri.lower() else None
    return "text-generation" if fetch(settings).gguf_file else None

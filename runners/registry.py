"""Create the runner of a model's task.

Runners are imported where the model is, never in the entry service: torch is heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from hf_runtime.settings import ModelSettings
from runners.engines.runner import Runner
from runners.models.architecture import check_asked_task, resolve_task
from runners.storage.custom_code import allowed_pipeline, find_custom_pipeline
from runners.storage.fetch import fetch

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler

#: The module for whatever task the model's own code does.
_CUSTOM = "custom-pipeline"


def create_runner(settings: ModelSettings, compiler: Compiler | None = None) -> Runner[Any, Any, Any, Any]:
    """The runner of the model's own pipeline, if it has one that may run, else that of its task; nothing is loaded yet.

    Args:
        compiler: that of the model's kernels, if it is at work already.

    Raises:
        LoadError: there is no such pipeline, and the task is not known.
    """
    if allowed_pipeline(settings) is not None:
        checkpoint = fetch(settings)
        if find_custom_pipeline(checkpoint.folder, settings) is not None:
            return _create(_CUSTOM, settings, compiler)
        check_asked_task(settings)
    settings = resolve_task(settings)
    assert settings.task is not None, "this is a bug: a task that is not found raises"
    return _create(settings.task, settings, compiler)


def _create(task: str, settings: ModelSettings, compiler: Compiler | None) -> Runner[Any, Any, Any, Any]:
    module = import_module(f"runners.tasks.{task.replace('-', '_')}")
    return cast("Runner[Any, Any, Any, Any]", module.RUNNER(settings, compiler))

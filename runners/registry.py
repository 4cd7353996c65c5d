"""Create the runner of a model's task.

Runners are imported only in the process of their model, because importing torch takes seconds and memory.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from hf_runtime.settings import ModelSettings
from runners.engines.runner import Runner
from runners.models.architecture import check_requested_task, resolve_task
from runners.storage.custom_code import find_allowed_pipeline, find_custom_pipeline
from runners.storage.fetch import fetch

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler

#: Module of the runner for models with their own pipeline.
_CUSTOM_PIPELINE = "custom-pipeline"


def create_runner(settings: ModelSettings, compiler: Compiler | None = None) -> Runner[Any, Any, Any, Any]:
    """Create the runner of the model's own pipeline, if allowed, or else of its task.

    The runner has not loaded the model yet.

    Args:
        compiler: compiler of the model's kernels, if it has been started already.

    Raises:
        LoadError: there is no such pipeline, and the task is unknown.
    """
    if find_allowed_pipeline(settings) is not None:
        checkpoint = fetch(settings)
        if find_custom_pipeline(checkpoint.folder, settings) is not None:
            return _create(_CUSTOM_PIPELINE, settings, compiler)
        check_requested_task(settings)
    settings = resolve_task(settings)
    assert settings.task is not None, "this is a bug: resolve_task raises if it finds no task"
    return _create(settings.task, settings, compiler)


def _create(task: str, settings: ModelSettings, compiler: Compiler | None) -> Runner[Any, Any, Any, Any]:
    module = import_module(f"runners.tasks.{task.replace('-', '_')}")
    return cast("Runner[Any, Any, Any, Any]", module.RUNNER(settings, compiler))

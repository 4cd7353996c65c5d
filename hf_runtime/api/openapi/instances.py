"""Schemas and examples of what the served tasks accept and answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_runtime.api.openapi.operation import Served
from hf_runtime.api.openapi.schemas import Json
from hf_runtime.contract.task_spec import TaskSpec
from hf_runtime.contract.tasks import TASKS


def label(task: str | None) -> str:
    """Return the name of a task's example."""
    return task or "custom-pipeline"


def of_tasks(served: Served, kind: Callable[[TaskSpec], Any]) -> Json:
    """Return the schema of everything that one of the models accepts, or answers.

    Args:
        kind: the type to describe, such as that of an instance.
    """
    options: list[Json] = []
    for task in served.tasks:
        if task is None:
            return {}
        schema = served.schemas.of(kind(TASKS[task]))
        options += [option for option in schema.get("anyOf", [schema]) if option not in options]
    return options[0] if len(options) == 1 else {"anyOf": options} if options else {}

"""Schemas of the instances and answers of the served tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_runtime.api.openapi.operation import Served
from hf_runtime.api.openapi.schemas import Json
from hf_runtime.contract.task_spec import TaskSpec
from hf_runtime.contract.tasks import TASKS


def name_example(task: str | None) -> str:
    """Return the name of a task's example."""
    return task or "custom-pipeline"


def make_task_schema(served: Served, kind: Callable[[TaskSpec], Any]) -> Json:
    """Return one schema for the instances, or the answers, of all served tasks.

    Args:
        kind: returns the type to describe, such as that of an instance.
    """
    options: list[Json] = []
    for task in served.tasks:
        if task is None:
            return {}
        schema = served.schemas.of(kind(TASKS[task]))
        options += [option for option in schema.get("anyOf", [schema]) if option not in options]
    return options[0] if len(options) == 1 else {"anyOf": options} if options else {}

"""Specifications of the tasks, one module for each.

The server supports every task that has a module here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from hf_runtime.contract.task_spec import TaskSpec


def _find_specs() -> dict[str, TaskSpec]:
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    specs = [spec for module in modules if isinstance(spec := getattr(module, "SPEC", None), TaskSpec)]
    return {spec.name: spec for spec in specs}


#: All tasks by name.
TASKS: Mapping[str, TaskSpec] = _find_specs()

#: Tasks whose models generate token by token; models of the other tasks compute a batch in one forward pass.
GENERATIVE_TASKS: tuple[str, ...] = tuple(name for name, spec in TASKS.items() if spec.generative)

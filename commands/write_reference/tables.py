"""Tables of settings, parameters of tasks, metrics, errors and routes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from commands.write_reference.pages import PageError, Table, table
from commands.write_reference.values import default_of, values_of
from hf_runtime.api.inference import Models
from hf_runtime.api.openapi.document import descriptions
from hf_runtime.api.openapi.operation import Served
from hf_runtime.contract.errors import HTTP_STATUS
from hf_runtime.contract.tasks import TASKS
from hf_runtime.observability import model_metrics, request_metrics
from hf_runtime.settings import ModelSettings, ServerSettings

_MIB = 2**20

#: Row of the parameter that each protocol reads itself, so that no task has a field for it.
_STREAM = ["`stream`", "`true`, `false`", "`false`", "Send the answer while it is generated."]


def setting_fields() -> dict[str, FieldInfo]:
    """Return the fields that environment variables set, by the first variable of each."""
    fields: dict[str, FieldInfo] = {}
    for kind in (ServerSettings, ModelSettings):
        for field in kind.model_fields.values():
            for variable in variables_of(field)[:1]:
                # Both classes have LOG_LEVEL.
                fields.setdefault(variable, field)
    return fields


def variables_of(field: FieldInfo) -> list[str]:
    """Return the environment variables that set a field, the usual name first."""
    alias = field.validation_alias
    if alias is None:
        return []
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [str(alias)]


def _settings(words: Sequence[str]) -> list[str]:
    fields = setting_fields()
    unknown = [word for word in words if word not in fields]
    if unknown:
        raise PageError(f"no setting is called {', '.join(unknown)}")
    rows = []
    for variable in words:
        field = fields[variable]
        names = ", ".join(f"`{name}`" for name in variables_of(field))
        rows.append([names, values_of(field), _default(variable, field), _description(variable, field)])
    return table(["Variable", "Values", "Default", "Description"], rows)


def _default(variable: str, field: FieldInfo) -> str:
    default = field.default
    if variable.endswith("_SIZE") and type(default) is int and default % _MIB == 0:
        return f"`{default}` ({default // _MIB} MiB)"
    return default_of(field)


def _description(name: str, field: FieldInfo) -> str:
    if field.description is None:
        raise PageError(f"the field of {name} has no description")
    return field.description


def _parameters(words: Sequence[str]) -> list[str]:
    if len(words) != 1:
        raise PageError("a table of parameters needs one task")
    task = words[0]
    if task not in TASKS:
        raise PageError(f"no task is called {task}")
    spec = TASKS[task]
    rows = [
        [f"`{name}`", values_of(field), default_of(field), _description(name, field)]
        for name, field in spec.parameters.model_fields.items()
    ]
    if spec.generative:
        rows.append(_STREAM)
    return table(["Parameter", "Values", "Default", "Description"], rows)


def _metrics(words: Sequence[str]) -> list[str]:
    modules = {"requests": request_metrics, "models": model_metrics}
    families = [family for word in words for family in vars(modules[word]._families()).values()]
    return table(["Metric", "Type", "Labels", "Description"], [_metric(family) for family in families])


def _metric(family: Any) -> list[str]:
    """Return the row of a metric family.

    The labels are only in a private attribute of prometheus_client.
    """
    described = next(iter(family.describe()))
    name = f"{described.name}_total" if described.type == "counter" else described.name
    labels = ", ".join(f"`{label}`" for label in family._labelnames)
    return [f"`{name}`", described.type, labels, described.documentation]


def _errors(_: Sequence[str]) -> list[str]:
    rows = sorted(
        (int(status), kind.code, (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "))
        for kind, status in HTTP_STATUS.items()
    )
    return table(
        ["Status", "Code", "When"],
        [[str(status), f"`{code}`", about] for status, code, about in rows],
    )


def _routes(_: Sequence[str]) -> list[str]:
    described = descriptions(Served(Models({}), ServerSettings()))
    lines: list[str] = []
    for tag in dict.fromkeys(str(operation["tags"][0]) for operation in described.values()):
        rows = [
            [f"`{route}`", str(operation["summary"]), ", ".join(sorted(operation["responses"]))]
            for route, operation in described.items()
            if operation["tags"][0] == tag
        ]
        lines += [f"### {tag}", "", *table(["Route", "What it does", "Statuses"], rows), ""]
    return lines[:-1]


TABLES: Mapping[str, Table] = {
    "settings": _settings,
    "parameters": _parameters,
    "metrics": _metrics,
    "errors": _errors,
    "routes": _routes,
}


def left_out(settings: Sequence[str], tasks: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each setting and task that is not in exactly one table."""
    for name, known, shown in (("setting", list(setting_fields()), settings), ("task", list(TASKS), tasks)):
        for each in known:
            if shown.count(each) != 1:
                yield f"the {name} {each} must be in one marker of docs/, and is in {shown.count(each)}"

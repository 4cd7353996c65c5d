"""Types, limits and defaults of pydantic fields in words."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_NAMES = {
    str: "string", SecretStr: "string, secret", int: "whole number", float: "number", Path: "path", dict: "object",
    Any: "any value",
}  # fmt: skip
_LIMITS = {"ge": "at least", "gt": "over", "le": "at most", "lt": "under"}


def values_of(field: FieldInfo) -> str:
    """Return the values that a field accepts, with their limits."""
    shown = ", ".join(dict.fromkeys(_shown(field.annotation)))
    return shown + _limits(field)


def default_of(field: FieldInfo) -> str:
    """Return a field's default as code, or `required` or `unset` if it has none."""
    if field.default_factory is not None:
        return f"`{_literal(field.default_factory())}`"  # type: ignore[call-arg]  # the factories here take no arguments
    if field.default is PydanticUndefined:
        return "required"
    return "unset" if field.default is None else f"`{_literal(field.default)}`"


def _limits(field: FieldInfo) -> str:
    found = {
        name: getattr(item, name)
        for item in field.metadata
        for name in _LIMITS
        if getattr(item, name, None) is not None
    }
    if "ge" in found and "le" in found:
        return f", {found['ge']:,} to {found['le']:,}"
    return "".join(f", {words} {_count(found[name])}" for name, words in _LIMITS.items() if name in found)


def _count(limit: float) -> str:
    return "2^63" if limit == 2**63 else f"{limit:,}"


def _shown(kind: Any) -> Iterator[str]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is bool:
        yield "`true`, `false`"
    elif kind is ByteSize:
        yield "bytes, such as `4GiB`"
    elif origin is Annotated:
        yield from _shown(arguments[0])
    elif origin is Literal:
        yield from (f"`{_literal(value)}`" for value in arguments)
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            if argument is not type(None):
                yield from _shown(argument)
    elif origin is list:
        yield f"list of {' or '.join(_shown(arguments[0]))}s"
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield _NAMES[dict]
    else:
        yield _NAMES.get(origin or kind, str(kind))


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict) and value:
        return str(value).replace("'", '"')
    return str(value)

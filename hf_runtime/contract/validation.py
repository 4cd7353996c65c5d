"""Strict validation of requests, with pydantic's errors as errors of a request."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from hf_runtime.contract.errors import InvalidRequest

_FIELD_ERROR = "field_error"


class StrictModel(BaseModel):
    """Base of the values that clients send. Unknown fields and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TolerantModel(StrictModel):
    """Base of objects in which null counts as missing, and so do hints that change nothing.

    Clients send objects of answers back, with empty fields and fields of their own.
    """

    #: Names of fields that change nothing.
    hints: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop_hints(cls, value: Any) -> Any:
        if not isinstance(value, dict) or (None not in value.values() and cls.hints.isdisjoint(value)):
            return value
        return {name: each for name, each in value.items() if each is not None and name not in cls.hints}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Allow null in optional fields."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        allow_null(schema)
        return schema


def allow_null(schema: JsonSchemaValue) -> None:
    """Change the JSON schema of an object so that its optional fields may be null."""
    fields = schema.get("properties", {})
    for name in fields.keys() - set(schema.get("required", ())):
        field = fields[name]
        if {"type": "null"} not in field.get("anyOf", ()):
            moved = {key: field.pop(key) for key in ("default", "description") if key in field}
            fields[name] = {"anyOf": [field, {"type": "null"}]} | moved


def make_field_error(field: str, reason: str) -> PydanticCustomError:
    """Return an error of one field, for a validator of its model to raise."""
    return PydanticCustomError(_FIELD_ERROR, "{reason}", {"field": field, "reason": reason})


def make_invalid_request(error: ValidationError, root: str = "", *, show_input: bool = False) -> InvalidRequest:
    """Return the first error in pydantic's error.

    Args:
        root: path of the validated value.
        show_input: quote the wrong value if it is a string or a number.
    """
    first = error.errors(include_url=False)[0]
    # pydantic adds "[key]" to the path if the key is wrong and not its value.
    parts = [part for part in first["loc"] if part != "[key]"]
    path = root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    if first["type"] == _FIELD_ERROR:
        path += f".{first['ctx']['field']}"
    reason = first["msg"].removeprefix("Value error, ")
    if show_input and isinstance(first["input"], str | int | float):
        reason += f" (given: {first['input']!r:.100})"
    return InvalidRequest(reason, field=path.removeprefix(".")[:200] or None)

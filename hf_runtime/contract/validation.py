"""Strict validation of requests, with pydantic's errors as errors of a request."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from hf_runtime.contract.errors import InvalidRequest

_FIELD_ERROR = "field_error"


class StrictModel(BaseModel):
    """Base of the values that clients send. Unknown fields and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


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

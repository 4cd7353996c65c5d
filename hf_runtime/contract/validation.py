"""Errors of pydantic as errors of a request, with the path of the field."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from hf_runtime.contract.errors import InvalidRequest

_FIELD_ERROR = "field_error"


def field_error(field: str, reason: str) -> PydanticCustomError:
    """Return the error of one field, to be raised by a validator of the model that has it."""
    return PydanticCustomError(_FIELD_ERROR, "{reason}", {"field": field, "reason": reason})


def invalid_request(error: ValidationError, root: str = "", *, show_input: bool = False) -> InvalidRequest:
    """Return the first of pydantic's complaints.

    Args:
        root: path of what was validated.
        show_input: quote a scalar that was refused.
    """
    first = error.errors(include_url=False)[0]
    # pydantic marks a wrong key, rather than its value, with "[key]".
    parts = [part for part in first["loc"] if part != "[key]"]
    path = root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    if first["type"] == _FIELD_ERROR:
        path += f".{first['ctx']['field']}"
    reason = first["msg"].removeprefix("Value error, ")
    if show_input and isinstance(first["input"], str | int | float):
        reason += f" (given: {first['input']!r:.100})"
    return InvalidRequest(reason, field=path.removeprefix(".")[:200] or None)

"""Configuration errors as one readable line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)


class SettingsError(Exception):
    """The configuration cannot be used; the message is one readable line."""


def validate_settings(
    make: Callable[[], ModelT], position: Callable[[Sequence[str | int]], str] = lambda _: ""
) -> ModelT:
    """Call `make` and raise a readable error if validation fails.

    Args:
        position: returns the position of a value in its file, given the names and indices that lead to it. The position
            is put before the message.

    Raises:
        SettingsError: names the first value that is wrong.
    """
    try:
        return make()
    except ValidationError as error:
        raise to_settings_error(error, position) from None


def to_settings_error(
    error: ValidationError, position: Callable[[Sequence[str | int]], str] = lambda _: ""
) -> SettingsError:
    """Return a one-line error about the first invalid value.

    Args:
        position: as in `validate_settings`.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    location = first["loc"]
    path = format_path(location)
    if first["type"] == "extra_forbidden":
        message = "is not supported here"
    elif first["type"] == "missing":
        message = "is missing"
    else:
        message = first["msg"].removeprefix("Value error, ")
    prefix = f"{position(location)}{path}{': ' if path else ''}"
    return SettingsError(f"{prefix}{message}{_format_input(path, first.get('input'))}")


def format_path(location: Sequence[str | int]) -> str:
    """Return a path in a document as users write it: `spec.predictor.env[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _format_input(path: str, value: Any) -> str:
    secret = any(word in path.upper() for word in ("TOKEN", "SECRET", "KEY", "PASSWORD"))
    return f" (given: {value!r})" if path and not secret and isinstance(value, str | int | float) else ""

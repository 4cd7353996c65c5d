"""What is wrong with a configuration, in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)


class SettingsError(Exception):
    """The configuration cannot be used; the message is one readable line."""


def checked(make: Callable[[], ModelT], place: Callable[[Sequence[str | int]], str] = lambda _: "") -> ModelT:
    """What `make` makes.

    Args:
        place: says where a value stands, given the names and indices that lead to it; put before the message.

    Raises:
        SettingsError: of the first value that is wrong.
    """
    try:
        return make()
    except ValidationError as error:
        raise explained(error, place) from None


def explained(error: ValidationError, place: Callable[[Sequence[str | int]], str] = lambda _: "") -> SettingsError:
    """What is wrong with the first value that is wrong; `place` as in `checked`."""
    first = error.errors(include_url=False, include_context=False)[0]
    location = first["loc"]
    path = dotted(location)
    if first["type"] == "extra_forbidden":
        message = "is not supported here"
    elif first["type"] == "missing":
        message = "is missing"
    else:
        message = first["msg"].removeprefix("Value error, ")
    return SettingsError(f"{place(location)}{path}{': ' if path else ''}{message}{_shown(path, first.get('input'))}")


def dotted(location: Sequence[str | int]) -> str:
    """A place in a document as people write it: `spec.predictor.env[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _shown(path: str, value: Any) -> str:
    secret = any(word in path.upper() for word in ("TOKEN", "SECRET", "KEY", "PASSWORD"))
    return f" (given: {value!r})" if path and not secret and isinstance(value, str | int | float) else ""

"""Parameters of a request, checked by pydantic, with errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.validation import invalid_request


class Parameters(BaseModel):
    """Base of every task's parameters: unknown names and wrong types are refused, never guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


#: Type of the field `truncation`, which most tasks have.
Truncation = Annotated[
    bool,
    Field(
        description="Truncate an input that is longer than the model's limit. If false, the input is an error (400)."
    ),
]

ParametersT = TypeVar("ParametersT", bound=Parameters)


def parse_parameters(kind: type[ParametersT], given: Mapping[str, Any], defaults: Mapping[str, Any]) -> ParametersT:
    """Check a request's parameters over the operator's defaults.

    Raises:
        InvalidRequest: names the first wrong field; for an unknown one also the nearest known name.
    """
    for name in given:
        if name not in kind.model_fields:
            nearest = get_close_matches(name, kind.model_fields, n=1)
            hint = f"did you mean '{nearest[0]}'?" if nearest else f"known are {', '.join(sorted(kind.model_fields))}."
            raise InvalidRequest(f"unknown parameter, {hint}", field=f"parameters.{name}")
    try:
        return kind.model_validate({**defaults, **given})
    except ValidationError as error:
        raise invalid_request(error, "parameters") from None


def token_ids(instance: list[Any], vocabulary: int) -> list[int]:
    """An instance that is a text's tokens.

    Raises:
        InvalidRequest: one of them is no token of the model.
    """
    for place, token in enumerate(instance):
        if type(token) is not int or not 0 <= token < vocabulary:
            raise InvalidRequest(f"must be a token of the model, a whole number below {vocabulary}", field=f"[{place}]")
    return instance

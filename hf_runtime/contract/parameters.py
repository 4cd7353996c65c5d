"""Validation of the parameters of a request. Errors name the wrong field."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.validation import StrictModel, make_invalid_request


class Parameters(StrictModel):
    """Base of the parameters of all tasks. Unknown names and wrong types are errors."""


#: Type of the field `truncation`, which most tasks have.
Truncation = Annotated[
    bool,
    Field(
        description="Truncate an input that is longer than the model's limit. If false, the input is an error (400)."
    ),
]

ParametersT = TypeVar("ParametersT", bound=Parameters)


def parse_parameters(kind: type[ParametersT], given: Mapping[str, Any], defaults: Mapping[str, Any]) -> ParametersT:
    """Merge a request's parameters with the operator's defaults and validate them.

    Raises:
        InvalidRequest: a parameter is unknown or wrong. The error names the first wrong one, and the nearest known
            name if it is unknown.
    """
    for name in given:
        if name not in kind.model_fields:
            nearest = get_close_matches(name, kind.model_fields, n=1)
            hint = f"did you mean '{nearest[0]}'?" if nearest else f"known are {', '.join(sorted(kind.model_fields))}."
            raise InvalidRequest(f"unknown parameter, {hint}", field=f"parameters.{name}")
    try:
        return kind.model_validate({**defaults, **given})
    except ValidationError as error:
        raise make_invalid_request(error, "parameters") from None


def token_ids(instance: list[Any], vocabulary: int, field: str = "") -> list[int]:
    """Return an instance that is a list of token ids, after checking them.

    Args:
        field: field of the request that has the list; an instance is no field.

    Raises:
        InvalidRequest: an element is not a token id of the model.
    """
    for index, token in enumerate(instance):
        if type(token) is not int or not 0 <= token < vocabulary:
            raise InvalidRequest(
                f"must be a token of the model, a whole number below {vocabulary}", field=f"{field}[{index}]"
            )
    return instance

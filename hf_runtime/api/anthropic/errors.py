"""Errors in Anthropic's format.

Source: https://docs.anthropic.com/en/api/errors
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

from typing_extensions import TypedDict

from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import HTTP_STATUS, ServingError
from hf_runtime.contract.request_context import current_request_context

_ErrorType = Literal[
    "api_error",
    "authentication_error",
    "invalid_request_error",
    "not_found_error",
    "overloaded_error",
    "permission_error",
    "rate_limit_error",
    "request_too_large",
    "timeout_error",
]


@answer_type
class AnthropicErrorObject(TypedDict):
    """The kind of an error, and a message that names the wrong field."""

    type: _ErrorType
    message: str


@answer_type
class AnthropicError(TypedDict):
    """An error; in a stream, an event."""

    type: Literal["error"]
    error: AnthropicErrorObject
    request_id: str | None


#: Kinds that do not follow from the class of the status alone.
_TYPES: Mapping[HTTPStatus, _ErrorType] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}


def describe_anthropic_error(error: ServingError) -> AnthropicError:
    """Return the body of an error response, or the data of an error event."""
    status = HTTP_STATUS[type(error)]
    by_class: _ErrorType = "api_error" if status >= 500 else "invalid_request_error"
    context = current_request_context()
    return {
        "type": "error",
        "error": {"type": _TYPES.get(status, by_class), "message": error.message},
        "request_id": context.request_id if context is not None else None,
    }

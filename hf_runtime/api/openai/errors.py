"""Errors in OpenAI's format: their kind, and the wrong field of the request.

Source: https://platform.openai.com/docs/guides/error-codes/api-errors
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from typing_extensions import TypedDict

from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import (
    HTTP_STATUS,
    ContextLengthExceeded,
    ModelNotFound,
    Overloaded,
    ServingError,
    Unauthenticated,
)

_ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


@answer_type
class OpenAIErrorObject(TypedDict):
    """A message, and the field of the request that is wrong."""

    message: str
    type: _ErrorType
    param: str | None
    code: str | None


@answer_type
class OpenAIError(TypedDict):
    """An error; in a stream, an event."""

    error: OpenAIErrorObject


#: `type` and `code` where they do not follow from the status alone.
_TYPES: Mapping[type[ServingError], tuple[_ErrorType, str]] = {
    Unauthenticated: ("invalid_request_error", "invalid_api_key"),
    ModelNotFound: ("invalid_request_error", "model_not_found"),
    ContextLengthExceeded: ("invalid_request_error", "context_length_exceeded"),
    Overloaded: ("rate_limit_error", "rate_limit_exceeded"),
}


def describe_openai_error(error: ServingError) -> OpenAIError:
    """Return the body of an error response, or the data of an error event."""
    by_status: _ErrorType = "server_error" if HTTP_STATUS[type(error)] >= 500 else "invalid_request_error"
    kind, code = _TYPES.get(type(error), (by_status, None))
    param = "model" if isinstance(error, ModelNotFound) else error.field
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}

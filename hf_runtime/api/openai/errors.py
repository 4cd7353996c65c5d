"""Errors as OpenAI's clients read them: which kind, and which field of the request is to blame.

Source: https://platform.openai.com/docs/guides/error-codes/api-errors
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from hf_runtime.api.http.json_body import json_response
from hf_runtime.contract.errors import (
    HTTP_STATUS,
    ModelNotFound,
    Overloaded,
    ServingError,
    Unauthenticated,
)

#: `type` and `code` where they do not follow from the status alone.
_KINDS: Mapping[type[ServingError], tuple[str, str]] = {
    Unauthenticated: ("invalid_request_error", "invalid_api_key"),
    ModelNotFound: ("invalid_request_error", "model_not_found"),
    Overloaded: ("rate_limit_error", "rate_limit_exceeded"),
}


def in_clients_terms(error: ServingError, fields: Mapping[str, object], names: Mapping[str, str]) -> ServingError:
    """Return a runner's error as one of the request: with its names, and its field, if one is wrong.

    Args:
        fields: of the request.
        names: the field for each parameter that the client calls by another name.
    """
    return error.renamed(lambda name: names.get(name, name)).as_field_of(fields)


def error_object(error: ServingError) -> dict[str, Any]:
    """Return the body of an error, or the event of one."""
    status = HTTP_STATUS[type(error)]
    kind, code = _KINDS.get(type(error), ("server_error" if status >= 500 else "invalid_request_error", None))
    param = "model" if isinstance(error, ModelNotFound) else error.field
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def error_response(error: ServingError) -> Response:
    """Return the response to a request that failed."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else None
    return json_response(error_object(error), HTTP_STATUS[type(error)], headers)

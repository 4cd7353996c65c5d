"""Errors as OpenAI's clients read them: which kind, and which field of the request is to blame.

Source: https://platform.openai.com/docs/guides/error-codes/api-errors
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from starlette.responses import Response

from hf_runtime.api.http.json_body import json_response
from hf_runtime.contract.errors import (
    HTTP_STATUS,
    InvalidRequest,
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

#: What a message is led by if a field of the request is to blame, such as `messages[0].content: `.
_LEAD = re.compile(r"(?P<param>(?P<field>\w++)[\w.\[\]]*+): ")

#: A runner's parameter, by its path or by a name that is no word of English.
_PARAMETER = re.compile(r"\bparameters\.(\w+)|\b(\w+_\w+)\b")


class FieldError(Exception):
    """An error that a field of the request is to blame for.

    Args:
        param: the field's path, such as `messages[0].content`; None if no field is to blame.
    """

    def __init__(self, error: ServingError, param: str | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.param = param


def refused(message: str, param: str) -> FieldError:
    """A 400 for a field."""
    return FieldError(InvalidRequest(message), param)


def in_clients_terms(error: ServingError, fields: Collection[str], names: Mapping[str, str]) -> FieldError:
    """A runner's error as one of the request: with its names, and the field to blame.

    Args:
        fields: of the request.
        names: the field for each parameter that the client calls by another name.
    """
    message = _PARAMETER.sub(lambda found: names.get(found[1] or found[2], found[1] or found[2]), error.message)
    lead = _LEAD.match(message)
    if lead is None or lead["field"] not in fields:
        param = None
    else:
        # A runner that names the field itself, within the instance, knows better.
        inner = _LEAD.match(message, lead.end())
        if inner is not None and inner["field"] in fields:
            message, lead = message[lead.end() :], inner
        param = lead["param"]
    return FieldError(type(error)(message, retry_after=error.retry_after), param)


def error_object(error: ServingError, param: str | None = None) -> dict[str, Any]:
    """The body of an error, or the event of one."""
    status = HTTP_STATUS[type(error)]
    kind, code = _KINDS.get(type(error), ("server_error" if status >= 500 else "invalid_request_error", None))
    if isinstance(error, ModelNotFound):
        param = "model"
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def error_response(error: ServingError, param: str | None = None) -> Response:
    """The response to a request that failed."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else None
    return json_response(error_object(error, param), HTTP_STATUS[type(error)], headers)

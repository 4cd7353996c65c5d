"""Everything that can go wrong with a request, and the HTTP status each kind is answered with.

Every room raises these and nothing else on purpose; each protocol renders them in its own shape.
The ``code`` travels between processes, so an error raised beside the model reaches the client unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar


class ServingError(Exception):
    """Base of all errors that a client may see.

    Args:
        message: one sentence for the client: what is wrong and, where it helps, what to do.
        retry_after: seconds after which the same request may succeed, or None if repeating is pointless.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after

    def located(self, place: str) -> ServingError:
        """The same error, its message led by the place of the request it concerns, such as ``instances[3]``."""
        return type(self)(f"{place}: {self.message}", retry_after=self.retry_after)


class LoadError(Exception):
    """The model cannot be loaded; the message is one sentence that says what is wrong and what to do."""


class InvalidRequest(ServingError):
    """The request cannot be served as it is written."""

    code = "invalid_request"


class Unauthenticated(ServingError):
    """The request shows no valid API key."""

    code = "unauthenticated"


class ModelNotFound(ServingError):
    """No model of that name is configured."""

    code = "model_not_found"


class Forbidden(ServingError):
    """The operator has not enabled this operation."""

    code = "forbidden"


class MethodNotAllowed(ServingError):
    """The path exists, but not with this HTTP method."""

    code = "method_not_allowed"


class RouteNotFound(ServingError):
    """No route of any protocol has that path."""

    code = "route_not_found"


class RequestTooLarge(ServingError):
    """The body, or the number of instances in it, is over the configured limit."""

    code = "request_too_large"


class BodyTooSlow(ServingError):
    """The body was not received within the configured time."""

    code = "body_too_slow"


class UnsupportedMediaType(ServingError):
    """The body is in a format that is not read here."""

    code = "unsupported_media_type"


class Overloaded(ServingError):
    """The queue of the model is full."""

    code = "overloaded"


class NotSupported(ServingError):
    """The protocol knows this operation, this server does not offer it."""

    code = "not_supported"


class ModelNotReady(ServingError):
    """The model is still loading, has failed to load, was unloaded, or its runner is restarting."""

    code = "model_not_ready"


class ServerBusy(ServingError):
    """The bodies of other requests take the memory for this one."""

    code = "server_busy"


class DeadlineExceeded(ServingError):
    """The answer was not ready within the configured time."""

    code = "deadline_exceeded"


class InferenceFailed(ServingError):
    """The model failed on an input that looked right; the log has the details."""

    code = "inference_failed"


def cannot_be_sent(error: Exception) -> InferenceFailed:
    """The error of an item whose answer could not be encoded; it quotes nothing of the answer."""
    said = str(error)
    if isinstance(error, UnicodeError) or "surrogates" in said:
        what = "half of a character"
    elif isinstance(error, OverflowError) or "64-bit" in said:
        what = "a whole number of more than 64 bits"
    elif isinstance(error, RecursionError) or "Recursion limit" in said:
        what = "too many levels"
    elif isinstance(error, NotFinite):
        what = "NaN or infinity"
    else:
        what = "what cannot be written"
    return InferenceFailed(f"the model's answer cannot be sent: it holds {what}")


class NotFinite(ValueError):
    """There is a number that JSON has no form for."""

    def __init__(self) -> None:
        super().__init__("NaN or infinity")


HTTP_STATUS: Mapping[type[ServingError], HTTPStatus] = {
    InvalidRequest: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    ModelNotFound: HTTPStatus.NOT_FOUND,
    RouteNotFound: HTTPStatus.NOT_FOUND,
    MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    RequestTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    BodyTooSlow: HTTPStatus.REQUEST_TIMEOUT,
    UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    NotSupported: HTTPStatus.NOT_IMPLEMENTED,
    ModelNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    ServerBusy: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    InferenceFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
}

ERROR_BY_CODE: Mapping[str, type[ServingError]] = {kind.code: kind for kind in HTTP_STATUS}

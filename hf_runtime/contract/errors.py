"""Errors of requests and their HTTP statuses.

All packages raise these errors, and each protocol converts them to its own format. Runners send the ``code`` to the
entry service, so an error in a runner reaches the client unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import ClassVar, Self

#: Reference to a parameter in the reason of an error; a function's own `parameters` are none.
_PARAMETER = re.compile(r"(?<![\w.\]])parameters\.(\w+)")


class ServingError(Exception):
    """Base of all errors that a client may see.

    Args:
        reason: one sentence for the client that says what is wrong and, if useful, what to do. A parameter in it has
            the form `parameters.<name>`. Protocols with other names replace it.
        field: path of the wrong field, such as `parameters.top_k`, or None if no field is wrong. The path starts at the
            instance if `place` is set, else at the request.
        place: path of the instance in the request, such as `instances[3]`, or None if the error does not concern a
            single instance.
        shows_field: true to put the field into the message. False if the reason already names it.
        retry_after: seconds after which the same request may succeed, or None if a retry cannot succeed.
    """

    code: ClassVar[str] = "internal"

    def __init__(
        self,
        reason: str,
        *,
        field: str | None = None,
        place: str | None = None,
        shows_field: bool = True,
        retry_after: int | None = None,
    ) -> None:
        self.reason = reason
        self.field = field
        self.place = place
        self.shows_field = shows_field
        self.retry_after = retry_after
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """Sentence for the client: the place and the field, if known, then the reason."""
        field = self.field if self.shows_field else None
        return ": ".join(part for part in (self.place, field, self.reason) if part is not None)

    @property
    def concerns_instance(self) -> bool:
        """False if the cause is the parameters or the state of the server.

        All instances of a request share its parameters.
        """
        in_parameters = self.field is not None and self.field.split(".")[0] == "parameters"
        return self.retry_after is None and not in_parameters

    def with_path(self, place: str) -> Self:
        """Return the error with the path of its instance, unless it concerns no instance."""
        return self._copy_with(place=place) if self.concerns_instance else self

    def with_field(self, field: str) -> Self:
        """Return the error with another field."""
        return self._copy_with(field=field)

    def with_parameter_names(self, name_of: Callable[[str], str]) -> Self:
        """Return the error with a protocol's names of parameters.

        Args:
            name_of: returns the path of a parameter in the protocol for the task's name of the parameter.
        """
        field = None if self.field is None else _PARAMETER.sub(lambda found: name_of(found[1]), self.field)
        return self._copy_with(reason=_PARAMETER.sub(lambda found: name_of(found[1]), self.reason), field=field)

    def with_known_field(self, fields: Mapping[str, object]) -> Self:
        """Return the error for a request with these fields.

        The field of the returned error is in one of them or is None. Another field becomes part of the reason.
        """
        if self.field is not None and _first_name(self.field) in fields:
            return self._copy_with(place=None)
        reason = f"{self.field}: {self.reason}" if self.field is not None and self.shows_field else self.reason
        if self.place is not None and _first_name(self.place) in fields:
            return self._copy_with(reason=reason, field=self.place, place=None, shows_field=True)
        lead = f"{self.place}: " if self.place is not None else ""
        return self._copy_with(reason=f"{lead}{reason}", field=None, place=None)

    def _copy_with(self, **changed: str | bool | None) -> Self:
        state = {"field": self.field, "place": self.place, "shows_field": self.shows_field} | changed
        reason = state.pop("reason", self.reason)
        return type(self)(reason, retry_after=self.retry_after, **state)  # type: ignore[arg-type]


def _first_name(path: str) -> str:
    return re.split(r"[.\[]", path, maxsplit=1)[0]


class LoadError(Exception):
    """Error while a model is loaded.

    The message says in one sentence what is wrong and what to do.
    """


class InvalidRequest(ServingError):
    """A field, an instance or a parameter of the request is missing or wrong."""

    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """The input is longer than the model's context, or leaves no room in it for an answer."""

    code = "context_length_exceeded"


class Unauthenticated(ServingError):
    """The request has no valid API key."""

    code = "unauthenticated"


class ModelNotFound(ServingError):
    """No model with this name is configured."""

    code = "model_not_found"


class Forbidden(ServingError):
    """The operator has not enabled this operation."""

    code = "forbidden"


class MethodNotAllowed(ServingError):
    """The route exists, but not with this HTTP method."""

    code = "method_not_allowed"


class RouteNotFound(ServingError):
    """No route has this path."""

    code = "route_not_found"


class RequestTooLarge(ServingError):
    """The body, the number of instances or one instance exceeds its limit."""

    code = "request_too_large"


class BodyTooSlow(ServingError):
    """The server did not receive the body within `BODY_TIMEOUT`."""

    code = "body_too_slow"


class UnsupportedMediaType(ServingError):
    """The server does not support the format of the body."""

    code = "unsupported_media_type"


class Overloaded(ServingError):
    """The model's queue or memory is full, or the API key has too many streams."""

    code = "overloaded"


class NotSupported(ServingError):
    """The protocol defines this operation, but this server does not support it."""

    code = "not_supported"


class ModelNotReady(ServingError):
    """The model is not loaded, its runner is restarting, or the server is stopping."""

    code = "model_not_ready"

    @property
    def concerns_instance(self) -> bool:
        """False, because the error concerns the model."""
        return False


class ServerBusy(ServingError):
    """The bodies of other requests use the memory that this one needs."""

    code = "server_busy"


class DeadlineExceeded(ServingError):
    """The answer was not ready within `REQUEST_TIMEOUT`."""

    code = "deadline_exceeded"


class InferenceFailed(ServingError):
    """The model failed on a valid input. The log has the details."""

    code = "inference_failed"


def make_encoding_error(error: Exception) -> InferenceFailed:
    """Return the error for an answer that cannot be encoded.

    The error does not quote the answer.
    """
    message = str(error)
    if isinstance(error, UnicodeError) or "surrogates" in message:
        what = "half of a character"
    elif isinstance(error, OverflowError) or "64-bit" in message:
        what = "a whole number of more than 64 bits"
    elif isinstance(error, RecursionError) or "Recursion limit" in message:
        what = "too many levels"
    elif isinstance(error, NonFiniteError):
        what = "NaN or infinity"
    else:
        what = "what cannot be written"
    return InferenceFailed(f"the model's answer cannot be sent: it holds {what}")


class NonFiniteError(ValueError):
    """Error for NaN and infinity, which JSON cannot express."""

    def __init__(self) -> None:
        super().__init__("NaN or infinity")


HTTP_STATUS: Mapping[type[ServingError], HTTPStatus] = {
    InvalidRequest: HTTPStatus.BAD_REQUEST,
    ContextLengthExceeded: HTTPStatus.BAD_REQUEST,
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

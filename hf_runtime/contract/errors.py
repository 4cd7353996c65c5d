"""Everything that can go wrong with a request, and the HTTP status of each kind.

Every room raises these; each protocol renders them in its own shape. The ``code`` travels between processes, so that
an error of a model process reaches the client unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import ClassVar, Self

#: A reference to a parameter in a reason.
_PARAMETER = re.compile(r"\bparameters\.(\w+)")


class ServingError(Exception):
    """Base of all errors that a client may see.

    Args:
        reason: one sentence for the client: what is wrong and, where it helps, what to do. It refers to a parameter as
            `parameters.<name>`, which a protocol with other names replaces.
        field: path of the field that is wrong, such as `parameters.top_k`: within the instance if there is a place,
            else within the request; None if no field is.
        place: the instance within the request, such as `instances[3]`; None if the error concerns no single instance.
        shows_field: false for a reason that names the field itself.
        retry_after: seconds after which the same request may succeed; None if repeating it is pointless.
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
        """The sentence for the client: the place and the field, if known, then the reason."""
        field = self.field if self.shows_field else None
        return ": ".join(part for part in (self.place, field, self.reason) if part is not None)

    @property
    def concerns_instance(self) -> bool:
        """False if parameters, which all instances of a request share, or the state of the server is the reason."""
        of_parameters = self.field is not None and self.field.split(".")[0] == "parameters"
        return self.retry_after is None and not of_parameters

    def located(self, place: str) -> Self:
        """Return the same error of an instance at a place, such as `instances[3]`; unless it concerns no instance."""
        return self._with(place=place) if self.concerns_instance else self

    def in_field(self, field: str) -> Self:
        """Return the same error of a field."""
        return self._with(field=field)

    def renamed(self, name_of: Callable[[str], str]) -> Self:
        """Return the same error in a protocol's names of parameters.

        Args:
            name_of: from a task's name of a parameter to the protocol's, with its path.
        """
        field = None if self.field is None else _PARAMETER.sub(lambda found: name_of(found[1]), self.field)
        return self._with(reason=_PARAMETER.sub(lambda found: name_of(found[1]), self.reason), field=field)

    def as_field_of(self, fields: Mapping[str, object]) -> Self:
        """Return the same error as one of a request with these fields; its field is one of them, or None."""
        if self.field is not None and _head(self.field) in fields:
            return self._with(place=None)
        reason = f"{self.field}: {self.reason}" if self.field is not None and self.shows_field else self.reason
        if self.place is not None and _head(self.place) in fields:
            return self._with(reason=reason, field=self.place, place=None, shows_field=True)
        lead = f"{self.place}: " if self.place is not None else ""
        return self._with(reason=f"{lead}{reason}", field=None, place=None)

    def _with(self, **changed: str | bool | None) -> Self:
        state = {"field": self.field, "place": self.place, "shows_field": self.shows_field} | changed
        reason = state.pop("reason", self.reason)
        return type(self)(reason, retry_after=self.retry_after, **state)  # type: ignore[arg-type]


def _head(path: str) -> str:
    return re.split(r"[.\[]", path, maxsplit=1)[0]


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

    @property
    def concerns_instance(self) -> bool:
        """False: it concerns the model."""
        return False


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

"""CloudEvents with predict requests and their answers, in both modes of the HTTP binding.

Sources: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md and, for the
answers, KServe's `create_response_cloudevent`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

from cloudevents.core.bindings.http import to_binary
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import OPTIONAL_ATTRIBUTES, REQUIRED_ATTRIBUTES, CloudEvent
from starlette.datastructures import Headers
from starlette.responses import Response

from hf_runtime.api.http.json_body import encode, read_object
from hf_runtime.contract.errors import InvalidRequest, UnsupportedMediaType
from hf_runtime.settings import ServerSettings

_STRUCTURED = "application/cloudevents+json"
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]*)")

#: Attributes that an answer never copies from its request.
_NOT_COPIED = ("id", "time", "datacontenttype")


class Event(NamedTuple):
    """A request sent as an event; its data is the JSON object that is otherwise the body."""

    attributes: Mapping[str, Any]
    data: dict[str, Any]
    structured: bool


def read_event(headers: Headers, body: bytes) -> Event | None:
    """Return the event of a request; None if the request is not an event.

    Raises:
        InvalidRequest: names the attribute that is missing or wrong.
        UnsupportedMediaType: a batch of events, or one that is not JSON.
    """
    content_type = headers.get("content-type", "").lower()
    media_type = content_type.partition(";")[0].strip()
    if media_type.startswith("application/cloudevents"):
        charset = _CHARSET.search(content_type)
        if media_type != _STRUCTURED or (charset and charset[1] not in ("utf-8", "utf8", "us-ascii")):
            raise UnsupportedMediaType(
                f"Content-Type: {content_type} is not read; an event has {_STRUCTURED} in UTF-8, or ce- headers"
            )
        return _parse_structured(body)
    if any(f"ce-{name}" in headers for name in REQUIRED_ATTRIBUTES):
        attributes = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
        return Event(_check_attributes(attributes), read_object(body), structured=False)
    return None


def _parse_structured(body: bytes) -> Event:
    # A null attribute counts as not set.
    attributes = {name: value for name, value in read_object(body).items() if value is not None}
    if "data_base64" in attributes:
        raise InvalidRequest("is not read; data holds the predict request, a JSON object", field="data_base64")
    data = attributes.pop("data", None)
    attributes = _check_attributes(attributes)
    if not isinstance(data, dict):
        raise InvalidRequest("must be a JSON object, the predict request", field="data")
    return Event(attributes, data, structured=True)


def _check_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes with the time as a datetime.

    Raises:
        InvalidRequest: names the attribute that is missing or wrong.
    """
    for name in REQUIRED_ATTRIBUTES:
        if name not in attributes:  # the library would invent a value
            raise InvalidRequest(f"is missing, a CloudEvent has {', '.join(REQUIRED_ATTRIBUTES)}", field=name)
    for name, value in attributes.items():
        if name in (*REQUIRED_ATTRIBUTES, *OPTIONAL_ATTRIBUTES):
            if not isinstance(value, str):
                raise InvalidRequest("must be a string", field=name)
        elif not isinstance(value, str | int):
            raise InvalidRequest("must be a string, an integer, true or false, as extension attributes are", field=name)
    if "time" in attributes:
        try:
            attributes["time"] = datetime.fromisoformat(attributes["time"])
        except ValueError:
            raise InvalidRequest("must be a time as RFC 3339 writes it", field="time") from None
    try:
        CloudEvent(attributes)
    except CloudEventValidationError as error:
        name, (first, *_) = next(iter(error.errors.items()))
        raise InvalidRequest(f"{first}", field=name) from None
    return attributes


def render_event(event: Event, model_name: str, answer: Any, settings: ServerSettings) -> Response:
    """Return the answer as an event, in the mode of the request."""
    copied = {name: value for name, value in event.attributes.items() if settings.ce_merge and name not in _NOT_COPIED}
    source = settings.ce_source or f"io.kserve.inference.{model_name}"
    attributes = {**copied, "type": settings.ce_type, "source": source}
    if event.structured:
        content = {**CloudEvent(attributes).get_attributes(), "data": answer}
        return Response(encode(content), media_type=_STRUCTURED)
    answer_event = CloudEvent({**attributes, "datacontenttype": "application/json"}, encode(answer))
    message = to_binary(answer_event, JSONFormat())
    return Response(message.body, headers=message.headers)

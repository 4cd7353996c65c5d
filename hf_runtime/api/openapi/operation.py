"""What all descriptions of routes are made of.

Source: https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from hf_runtime.api.inference import Models
from hf_runtime.api.openapi.schemas import Json, Schemas
from hf_runtime.settings import ServerSettings, Task

JSON = "application/json"

#: Descriptions of routes by method and path, such as `GET /v1/models`.
Operations = Mapping[str, Json]

#: What each status is answered for, as README's table has it.
ERRORS: Mapping[int, str] = {
    400: "The request is no JSON, a field, an instance or a parameter is wrong, or a text is too long for the model.",
    401: "A key is needed, and none that is valid is shown (`API_KEYS`).",
    403: "The operator has not enabled this (`MODEL_MANAGEMENT`).",
    404: "There is no model of that name.",
    408: "The body was not received within `BODY_TIMEOUT`.",
    413: "The body, the number of instances or one instance is over its limit.",
    415: "The body is neither plain nor gzip nor deflate, or a batch of CloudEvents, or one that is not JSON.",
    429: "The queue of the model is full.",
    500: "The model failed on an input that looked right; the log has the details.",
    501: "The protocol knows this, the server does not offer it.",
    503: "The model is loading, failed to load, was unloaded, its runner restarts, or bodies take the memory.",
    504: "There was no answer within `REQUEST_TIMEOUT`.",
}

#: For what a model computes.
COMPUTING = (400, 404, 408, 413, 415, 429, 500, 503, 504)

#: Statuses that are worth another try, and say when.
_LATER = (429, 503)

HEADERS: Mapping[str, Json] = {
    "X-Request-Id": {
        "description": "The request's own, else a new one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds, after which the same request may succeed.",
        "schema": {"type": "integer", "minimum": 0},
    },
}

REQUEST_ID: Json = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "Is sent back and logged, if it has at most 128 characters, all of them printable ASCII.",
    "schema": {"type": "string"},
}


@dataclass(frozen=True, slots=True)
class Served:
    """What the document depends on, and the schemas that it comes to."""

    models: Models
    settings: ServerSettings
    schemas: Schemas = field(default_factory=Schemas)

    def doing(self, tasks: Collection[Task | None]) -> list[str]:
        """The models of these tasks, None being those whose task is not known."""
        return [name for name in self.models.names if self.models.task(name) in tasks]

    @property
    def tasks(self) -> list[Task | None]:
        """What the models do, each once, in the order of configuration."""
        return list(dict.fromkeys(map(self.models.task, self.models.names)))


def operation(
    tag: str,
    name: str,
    summary: str,
    responses: Json,
    *,
    description: str = "",
    parameters: Iterable[Json] = (),
    body: Json | None = None,
    body_required: bool = True,
) -> Json:
    """A route with one method.

    Args:
        name: its `operationId`.
        body: what it may be, by media type.
    """
    described: Json = {"tags": [tag], "operationId": name, "summary": summary, "responses": responses}
    if description:
        described["description"] = description
    described["parameters"] = [*parameters, {"$ref": "#/components/parameters/X-Request-Id"}]
    if body is not None:
        described["requestBody"] = {"required": body_required, "content": body}
    return described


def ok(schema: Json, description: str = "OK", headers: Json | None = None, **others: Json) -> Json:
    """A 200 in JSON, or in other media types.

    Args:
        others: more fields of the JSON's media type object, such as `examples`.
    """
    return answer({JSON: {"schema": schema, **others}}, description, headers)


def answer(content: Json, description: str = "OK", headers: Json | None = None) -> Json:
    """A 200 by its media types."""
    headers = {**_headers("X-Request-Id"), **(headers or {})}
    return {"200": {"description": description, "headers": headers, "content": content}}


def errors(prefix: str, statuses: Iterable[int]) -> Json:
    """Responses of `error_components`."""
    return {str(status): {"$ref": f"#/components/responses/{_name(prefix, status)}"} for status in statuses}


def error_components(prefix: str, schema: Json) -> Json:
    """All errors in the shape of a protocol, each under its prefix and the status's phrase."""
    return {
        _name(prefix, status): {
            "description": description,
            "headers": _headers("X-Request-Id", *(("Retry-After",) if status in _LATER else ())),
            "content": {JSON: {"schema": schema}},
        }
        for status, description in ERRORS.items()
    }


def model_parameter(names: Collection[str], description: str = "") -> Json:
    """The model in the path; one of any name if none is known."""
    schema: Json = {"type": "string", **({"enum": list(names)} if names else {})}
    described = {"name": "name", "in": "path", "required": True, "schema": schema}
    return described | ({"description": description} if description else {})


def events(data: Json, example: str, *, end: str | None = None) -> Json:
    """Server-sent events. OpenAPI 3.1 has no words for streams; as tools read it, the schema is that of one event.

    Args:
        data: what the event's data, which is JSON, holds.
        end: the data of the last event, if that is not JSON.
    """
    text: Json = {"type": "string", "contentMediaType": JSON, "contentSchema": data}
    if end is not None:
        text = {"anyOf": [{"const": end}, text]}
    event = {"type": "object", "description": "One event.", "properties": {"data": text}, "required": ["data"]}
    return {"schema": event, "example": example}


def lines(line: Json, example: str) -> Json:
    """Newline-delimited JSON, of which OpenAPI 3.1 can say no more than that it is text; 3.2 has `itemSchema`."""
    return {"schema": {"type": "string"}, "x-itemSchema": line, "example": example}


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _name(prefix: str, status: int) -> str:
    return prefix + "".join(word.capitalize() for word in HTTPStatus(status).phrase.split())


def examples(values: Mapping[str, Any]) -> Json:
    """Named examples of a media type."""
    return {name: {"value": value} for name, value in values.items()}

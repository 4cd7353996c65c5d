"""Parts of the descriptions of routes.

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

#: Meaning of each error status.
ERRORS: Mapping[int, str] = {
    400: "The body is not JSON, a field, an instance or a parameter is wrong, or a text is too long for the model.",
    401: "The server needs an API key (`API_KEYS`), and the request has no valid one.",
    403: "The operator has not enabled this operation (`MODEL_MANAGEMENT`).",
    404: "No model with this name is configured.",
    408: "The body was not received within `BODY_TIMEOUT`.",
    413: "The body, the number of instances or one instance is over its limit.",
    415: "The body has an unsupported compression, or is a batch of CloudEvents or an event that is not JSON.",
    429: "The model's queue or memory is full, or the API key has too many streams.",
    500: "The model failed on a valid input, or JSON cannot express the answer. The log has the details.",
    501: "The protocol defines this operation, but this server does not support it.",
    503: "The model is not loaded, its runner restarts, the server stops, or request bodies fill the memory.",
    504: "There was no answer within `REQUEST_TIMEOUT`.",
}

#: Errors of routes that compute answers.
COMPUTING = (400, 404, 408, 413, 415, 429, 500, 503, 504)

#: Statuses with a `Retry-After` header.
_RETRYABLE = (429, 503)

HEADERS: Mapping[str, Json] = {
    "X-Request-Id": {
        "description": "Id of the request: the one that the client sent, or a new one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Number of seconds after which the same request may succeed.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "X-Ignored-Fields": {
        "description": "Names of fields that the server does not know and ignored, with commas.",
        "schema": {"type": "string"},
    },
}

REQUEST_ID: Json = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "Id of the request, which the server logs and returns. At most 128 characters of printable ASCII.",
    "schema": {"type": "string"},
}


@dataclass(frozen=True, slots=True)
class Served:
    """Models and settings that the document is about, and the document's schemas."""

    models: Models
    settings: ServerSettings
    schemas: Schemas = field(default_factory=Schemas)

    def find_models(self, tasks: Collection[Task | None]) -> list[str]:
        """Return the names of the models of these tasks; None stands for an unknown task."""
        return [name for name in self.models.names if self.models.get_task(name) in tasks]

    @property
    def tasks(self) -> list[Task | None]:
        """Distinct tasks of the models, in the order of configuration."""
        return list(dict.fromkeys(map(self.models.get_task, self.models.names)))


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
    """Return the description of a route with one method.

    Args:
        name: its `operationId`.
        body: media type objects of the request body, by media type.
    """
    described: Json = {"tags": [tag], "operationId": name, "summary": summary, "responses": responses}
    if description:
        described["description"] = description
    described["parameters"] = [*parameters, {"$ref": "#/components/parameters/X-Request-Id"}]
    if body is not None:
        described["requestBody"] = {"required": body_required, "content": body}
    return described


def ok(schema: Json) -> Json:
    """Return a 200 response in JSON."""
    return answer({JSON: {"schema": schema}})


def answer(content: Json, headers: Json | None = None) -> Json:
    """Return a 200 response by media type."""
    headers = {**_refer_to_headers("X-Request-Id"), **(headers or {})}
    return {"200": {"description": "OK", "headers": headers, "content": content}}


def errors(prefix: str, statuses: Iterable[int]) -> Json:
    """Return references to responses of `make_error_components`."""
    return {str(status): {"$ref": f"#/components/responses/{_name_component(prefix, status)}"} for status in statuses}


def make_error_components(prefix: str, schema: Json) -> Json:
    """Return all error responses of a protocol, named by prefix and status phrase."""
    return {
        _name_component(prefix, status): {
            "description": description,
            "headers": _refer_to_headers("X-Request-Id", *(("Retry-After",) if status in _RETRYABLE else ())),
            "content": {JSON: {"schema": schema}},
        }
        for status, description in ERRORS.items()
    }


def model_parameter(names: Collection[str], description: str = "") -> Json:
    """Return the parameter of the model in the path; any name if no model is known."""
    schema: Json = {"type": "string", **({"enum": list(names)} if names else {})}
    described = {"name": "name", "in": "path", "required": True, "schema": schema}
    return described | ({"description": description} if description else {})


def events(data: Json, example: str, *, end: str | None = None) -> Json:
    """Return a media type object of server-sent events.

    OpenAPI 3.1 cannot describe streams; tools expect the schema of one event.

    Args:
        data: schema of an event's data, which is JSON.
        end: the data of the last event, if that is not JSON.
    """
    text: Json = {"type": "string", "contentMediaType": JSON, "contentSchema": data}
    if end is not None:
        text = {"anyOf": [{"const": end}, text]}
    event = {"type": "object", "description": "One event.", "properties": {"data": text}, "required": ["data"]}
    return {"schema": event, "example": example}


def lines(line: Json, example: str) -> Json:
    """Return a media type object of newline-delimited JSON.

    OpenAPI 3.1 cannot describe the lines; `x-itemSchema` is the `itemSchema` of 3.2.
    """
    return {"schema": {"type": "string"}, "x-itemSchema": line, "example": example}


def _refer_to_headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _name_component(prefix: str, status: int) -> str:
    return prefix + "".join(word.capitalize() for word in HTTPStatus(status).phrase.split())


def examples(values: Mapping[str, Any]) -> Json:
    """Return named examples of a media type."""
    return {name: {"value": value} for name, value in values.items()}

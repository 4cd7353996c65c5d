"""Descriptions of the routes of KServe V1, and of CloudEvents on `:predict`."""

from __future__ import annotations

from hf_runtime.api.examples import get_example_request
from hf_runtime.api.kserve_v1 import Alive, SharedModel, SharedModelList
from hf_runtime.api.openapi.instances import make_task_schema, name_example
from hf_runtime.api.openapi.operation import (
    COMPUTING,
    JSON,
    Operations,
    Served,
    answer,
    errors,
    events,
    examples,
    lines,
    model_parameter,
    ok,
    operation,
)
from hf_runtime.api.openapi.schemas import Json
from hf_runtime.contract.generation import GeneratedDelta

_TAG = "KServe V1"

#: Prefix of the error components on the paths that KServe V1 and OpenAI's API share.
SHARED_ERRORS = "Shared"
_EVENT = "application/cloudevents+json"

_PREDICT = """\
The answer has one prediction for each instance, in the same order. If one instance is wrong, the whole request is an
error. The parameters depend on the task of the model. An unknown parameter is an error that names the most similar
known one.

With the parameter `stream`, a generative model sends its text while it generates it: as newline-delimited JSON, or as
server-sent events if the `Accept` header contains `text/event-stream`.

A request may be a CloudEvent 1.0 in structured mode, or in binary mode with its attributes in `ce-` headers. The answer
is an event in the same mode.
"""

_LINE = '{"index":0,"generated_text":" Paris"}'


def describe_routes(served: Served) -> Operations:
    """Return the descriptions by method and path."""
    of, names = served.schemas.of, served.models.names
    request = served.schemas.named("PredictRequest", _make_request_schema(served))
    requests = examples({name_example(task): get_example_request(task) for task in served.tasks})
    delta = of(GeneratedDelta)
    return {
        "GET /": operation(
            _TAG,
            "alive",
            "Report that the server is alive, or redirect a browser to /docs",
            {
                **ok(of(Alive)),
                "307": {"description": "To `/docs`, if `Accept` has text/html, as browsers send it.", "headers": {}},
            },
        ),
        "GET /v1/models": operation(
            _TAG, "v1_models", "List the names of all models, also as OpenAI does", ok(of(SharedModelList))
        ),
        "GET /v1/models/{name}": operation(
            _TAG,
            "v1_model",
            "Report whether a model is ready, also as OpenAI does",
            {**ok(of(SharedModel)), **errors(SHARED_ERRORS, (404, 503))},
            parameters=[model_parameter(names)],
        ),
        "POST /v1/models/{name}:predict": operation(
            _TAG,
            "v1_predict",
            "Run a model on instances",
            {
                **answer(
                    {
                        JSON: {"schema": served.schemas.named("Predictions", _make_predictions_schema(served))},
                        "application/x-ndjson": lines(delta, f"{_LINE}\n"),
                        "text/event-stream": events(delta, f"data: {_LINE}\n\n"),
                        _EVENT: {"schema": _make_event_schema({"$ref": "#/components/schemas/Predictions"})},
                    },
                    headers={name: {"schema": {"type": "string"}} for name in _CE_HEADERS},
                ),
                **errors("", COMPUTING),
            },
            description=_PREDICT,
            parameters=[model_parameter(names), *map(_make_ce_parameter, _CE_HEADERS)],
            body={JSON: {"schema": request, "examples": requests}, _EVENT: _make_event_body(served, request)},
        ),
        "POST /v1/models/{name}:explain": operation(
            _TAG,
            "v1_explain",
            "Explain a prediction. Not supported, because the server has no explainer",
            errors("", (404, 501, 503)),
            parameters=[model_parameter(names)],
        ),
    }


def _make_request_schema(served: Served) -> Json:
    limit = served.settings.max_instances
    instances = {
        "type": "array",
        "minItems": 1,
        "maxItems": limit,
        "items": make_task_schema(served, lambda spec: spec.instance),
    }
    return {
        "type": "object",
        "description": "A predict request. `inputs` means the same as `instances`.",
        "properties": {
            "instances": instances,
            "inputs": instances,
            "parameters": {
                "type": ["object", "null"],
                "description": "Parameters of the task. They apply to all instances.",
                "properties": {"stream": {"type": "boolean", "default": False}},
            },
        },
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
        "additionalProperties": False,
    }


def _make_predictions_schema(served: Served) -> Json:
    return {
        "type": "object",
        "description": "One answer for each instance, in the same order.",
        "properties": {"predictions": {"type": "array", "items": make_task_schema(served, lambda spec: spec.answer)}},
        "required": ["predictions"],
        "additionalProperties": False,
    }


#: Attributes that a CloudEvent must have, as headers of the binary mode.
_CE_HEADERS = {
    "ce-specversion": "`1.0` for a CloudEvent in binary mode. In structured mode, the body contains this attribute.",
    "ce-id": "Identifier of the event in binary mode.",
    "ce-source": "Source of the event in binary mode.",
    "ce-type": "Type of the event in binary mode.",
}


def _make_ce_parameter(name: str) -> Json:
    return {"name": name, "in": "header", "description": _CE_HEADERS[name], "schema": {"type": "string"}}


def _make_event_schema(data: Json) -> Json:
    """Return the schema of a CloudEvent in structured mode.

    Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/cloudevents.json
    """
    text = {"type": "string", "minLength": 1}
    return {
        "type": "object",
        "description": "A CloudEvent in structured mode.",
        "properties": {"specversion": {"const": "1.0"}, "id": text, "source": text, "type": text, "data": data},
        "required": ["specversion", "id", "source", "type", "data"],
        "additionalProperties": {"type": ["string", "integer", "boolean", "null"]},
    }


def _make_event_body(served: Served, request: Json) -> Json:
    head = {"specversion": "1.0", "id": "1", "source": "/docs", "type": "predict"}
    events = examples({name_example(task): {**head, "data": get_example_request(task)} for task in served.tasks})
    return {"schema": _make_event_schema(request), "examples": events}

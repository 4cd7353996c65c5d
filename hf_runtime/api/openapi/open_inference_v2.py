"""Descriptions of the routes of the Open Inference Protocol, KServe V2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_runtime.api.examples import get_example_request
from hf_runtime.api.kserve_v1 import ModelNames, ModelReady
from hf_runtime.api.open_inference_v2.generate import GenerateRequest, GenerateResponse, GenerateStreamResponse
from hf_runtime.api.open_inference_v2.metadata import ModelMetadata, ServerMetadata
from hf_runtime.api.open_inference_v2.request import HEADER_LENGTH, InferenceDocument
from hf_runtime.api.open_inference_v2.response import InferenceResponse
from hf_runtime.api.open_inference_v2.routes import ServerLive, ServerReady
from hf_runtime.api.openapi.instances import name_example
from hf_runtime.api.openapi.operation import (
    COMPUTING,
    JSON,
    Operations,
    Served,
    answer,
    errors,
    events,
    examples,
    model_parameter,
    ok,
    operation,
)
from hf_runtime.api.openapi.schemas import Json
from hf_runtime.contract.tasks import GENERATIVE_TASKS
from hf_runtime.settings import Task

_TAG = "KServe V2, Open Inference Protocol"
_GENERATE_TAG = "Open Inference Protocol, generate"
_BINARY = "application/octet-stream"

_INFER = f"""\
`GET /v2/models/{{name}}` returns a model's tensors. The first dimension counts instances.

Tensors may be sent as bytes after the JSON. The header `{HEADER_LENGTH}` is then the length of the JSON. The server
sends outputs in this way if the parameter `binary_data_output` of the request, or `binary_data` of an output, is true.
"""

#: Example of `generate`, which accepts V1's parameters, too.
_GENERATE = {"text_input": "The capital of France is", "parameters": {"max_tokens": 20}}

_LENGTH: Json = {
    "name": HEADER_LENGTH,
    "in": "header",
    "description": "Length of the JSON in bytes, if tensors follow it.",
    "schema": {"type": "integer", "minimum": 0},
}
_VERSION: Json = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}


def describe_routes(served: Served) -> Operations:
    """Return the descriptions by method and path."""
    return {
        **_describe_metadata(served),
        **_describe_infer(served),
        **_describe_generate(served),
        **_describe_versions(served),
    }


def _describe_metadata(served: Served) -> Operations:
    of, name = served.schemas.of, model_parameter(served.models.names)
    metadata = ok(of(ServerMetadata))
    return {
        "GET /v2": operation(_TAG, "v2_server", "Return the name, version and extensions of the server", metadata),
        "GET /v2/": operation(_TAG, "v2_server_", "Same as GET /v2", metadata),
        "GET /v2/health/live": operation(_TAG, "v2_live", "Report that the server is alive", ok(of(ServerLive))),
        "GET /v2/health/ready": operation(
            _TAG,
            "v2_ready",
            "Report whether every model is ready, except unloaded models",
            {**ok(of(ServerReady)), **errors("", (503,))},
        ),
        "GET /v2/models": operation(_TAG, "v2_models", "List the names of all models", ok(of(ModelNames))),
        "GET /v2/models/{name}": operation(
            _TAG,
            "v2_model",
            "Return the inputs and outputs of a model",
            {**ok(of(ModelMetadata)), **errors("", (404, 503))},
            parameters=[name],
        ),
        "GET /v2/models/{name}/ready": operation(
            _TAG,
            "v2_model_ready",
            "Report whether a model is ready",
            {**ok(of(ModelReady)), **errors("", (404, 503))},
            parameters=[name],
        ),
    }


def _describe_infer(served: Served) -> Operations:
    bytes_schema = {"type": "string", "format": "binary"}
    requests = examples({name_example(task): _to_tensor_request(get_example_request(task)) for task in served.tasks})
    return {
        "POST /v2/models/{name}/infer": operation(
            _TAG,
            "v2_infer",
            "Run a model on tensors",
            {
                **answer(
                    {
                        JSON: {"schema": served.schemas.of(InferenceResponse)},
                        _BINARY: {"schema": {**bytes_schema, "description": "An InferenceResponse and tensors."}},
                    },
                    headers={HEADER_LENGTH: {"description": _LENGTH["description"], "schema": _LENGTH["schema"]}},
                ),
                **errors("", COMPUTING),
            },
            description=_INFER,
            parameters=[model_parameter(served.models.names), _LENGTH],
            body={
                JSON: {"schema": served.schemas.of(InferenceDocument), "examples": requests},
                _BINARY: {"schema": {**bytes_schema, "description": "An InferenceDocument and tensors."}},
            },
        )
    }


def _to_tensor_request(v1: Mapping[str, Any]) -> dict[str, Any]:
    """Return a V1 request as tensors of strings, one for each field of its instances."""
    rows = [row if isinstance(row, dict) else {"text": row} for row in v1["instances"]]
    inputs = [
        {"name": name, "shape": [len(rows)], "datatype": "BYTES", "data": [row[name] for row in rows]}
        for name in rows[0]
    ]
    return {"inputs": inputs, **({"parameters": v1["parameters"]} if "parameters" in v1 else {})}


def _describe_generate(served: Served) -> Operations:
    of = served.schemas.of
    tasks: tuple[Task, ...] = GENERATIVE_TASKS
    parameters = [model_parameter(served.find_models(tasks), f"Name of a model whose task is {' or '.join(tasks)}.")]
    body = {JSON: {"schema": of(GenerateRequest), "example": _GENERATE}}
    event = 'data: {"model_name":"model","id":"1","text_output":" Paris"}\n\n'
    return {
        "POST /v2/models/{name}/generate": operation(
            _GENERATE_TAG,
            "v2_generate",
            "Generate text",
            {**ok(of(GenerateResponse)), **errors("", COMPUTING)},
            parameters=parameters,
            body=body,
        ),
        "POST /v2/models/{name}/generate_stream": operation(
            _GENERATE_TAG,
            "v2_generate_stream",
            "Generate text as a stream of server-sent events",
            {
                **answer({"text/event-stream": events(of(GenerateStreamResponse), event)}),
                **errors("", COMPUTING),
            },
            parameters=parameters,
            body=body,
        ),
    }


def _describe_versions(served: Served) -> Operations:
    """Return the descriptions of routes with versions, which all answer with an error."""
    parameters = [model_parameter(served.models.names), _VERSION]
    path = "/v2/models/{name}/versions/{version}"
    routes = {"": "GET", "/ready": "GET", "/infer": "POST", "/generate": "POST", "/generate_stream": "POST"}
    return {
        f"{method} {path}{verb}": operation(
            _TAG,
            f"v2_version{verb.replace('/', '_')}",
            "Not supported, because models have no versions here",
            errors("", (404, 501)),
            parameters=parameters,
        )
        for verb, method in routes.items()
    }

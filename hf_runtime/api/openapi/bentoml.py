"""Routes of BentoML itself."""

from __future__ import annotations

from hf_runtime.api.openapi.operation import Operations
from hf_runtime.api.openapi.schemas import Json

_TAG = "Health and metrics"


def _make_text_response(description: str) -> Json:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}


def _describe_route(name: str, summary: str, **responses: str) -> Json:
    described = {
        status.removeprefix("_"): _make_text_response(description) for status, description in responses.items()
    }
    return {"tags": [_TAG], "operationId": name, "summary": summary, "responses": described}


OPERATIONS: Operations = {
    "GET /livez": _describe_route("livez", "Report that the process is alive", _200="The process is alive."),
    "GET /readyz": _describe_route(
        "readyz",
        "Report whether the server should get requests: every model has loaded or failed, and one can answer",
        _200="The server should get requests.",
        _503="The server should not get requests now.",
    ),
    "GET /metrics": _describe_route("metrics", "Return metrics in Prometheus format", _200="All metrics."),
}

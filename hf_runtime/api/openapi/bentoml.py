"""Routes of BentoML itself."""

from __future__ import annotations

from hf_runtime.api.openapi.operation import Operations
from hf_runtime.api.openapi.schemas import Json

_TAG = "Health and metrics"


def _text_response(description: str) -> Json:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}


def _operation(name: str, summary: str, **responses: str) -> Json:
    described = {status.removeprefix("_"): _text_response(description) for status, description in responses.items()}
    return {"tags": [_TAG], "operationId": name, "summary": summary, "responses": described}


OPERATIONS: Operations = {
    "GET /livez": _operation("livez", "Whether the process is well", _200="It is."),
    "GET /readyz": _operation(
        "readyz",
        "Whether requests should be sent here: every model has loaded or failed, and one can answer",
        _200="They should.",
        _503="Not now.",
    ),
    "GET /metrics": _operation("metrics", "Metrics in Prometheus format", _200="All metrics."),
}

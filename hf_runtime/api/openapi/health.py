"""Descriptions of the routes of vLLM's names for health and version."""

from __future__ import annotations

from hf_runtime.api.health import Version
from hf_runtime.api.openapi.operation import Operations, Served, answer, errors, ok, operation

_TAG = "Health and metrics"


def describe_routes(served: Served) -> Operations:
    """Return the descriptions by method and path."""
    return {
        "GET /health": operation(
            _TAG,
            "health",
            "Same as GET /readyz, without a body",
            {**answer({}), **errors("", (503,))},
        ),
        "GET /version": operation(_TAG, "version", "Version of the server", ok(served.schemas.of(Version))),
    }

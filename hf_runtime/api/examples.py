"""Requests that can be sent as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from hf_runtime.contract.tasks import TASKS
from hf_runtime.settings import ModelSettings


def example_request(task: str | None) -> Mapping[str, Any]:
    """Return a V1 request for a model of a task; a text for a custom pipeline, whose instances are not known."""
    return TASKS[task or "text-classification"].example


def curl_example(model: ModelSettings, url: str | None) -> str:
    """Return a curl command that sends an example to the model at the server's address."""
    body = orjson.dumps(example_request(model.task)).decode().replace("'", "'\\''")
    return f"curl {url}/v1/models/{model.name}:predict -H 'Content-Type: application/json' -d '{body}'"

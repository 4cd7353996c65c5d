"""Example requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from hf_runtime.contract.tasks import TASKS
from hf_runtime.settings import ModelSettings


def get_example_request(task: str | None) -> Mapping[str, Any]:
    """Return a V1 request for a model of a task.

    The instances of a custom pipeline are unknown; its example is a text.
    """
    return TASKS[task or "text-classification"].example


def make_curl_example(model: ModelSettings, url: str | None) -> str:
    """Return a curl command that sends an example to the model at the server's address."""
    body = orjson.dumps(get_example_request(model.task)).decode().replace("'", "'\\''")
    return f"curl {url}/v1/models/{model.name}:predict -H 'Content-Type: application/json' -d '{body}'"

"""One request a task that can be sent as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from hf_runtime.settings import ModelSettings, Task

EXAMPLES: Mapping[Task, dict[str, Any]] = {
    "text-classification": {"instances": ["I love this movie! It's fantastic."]},
    "token-classification": {"instances": ["Apple Inc. was founded by Steve Jobs in Cupertino, California."]},
    "question-answering": {
        "instances": [{"question": "Who founded Apple?", "context": "Apple was founded by Steve Jobs."}]
    },
    "text-generation": {"instances": ["The capital of France is"], "parameters": {"max_new_tokens": 20}},
    "text2text-generation": {"instances": ["translate English to German: How are you?"]},
    "fill-mask": {"instances": ["Paris is the [MASK] of France."]},
    "feature-extraction": {"instances": ["A cat sits on the mat."]},
}


def curl_example(model: ModelSettings, url: str | None) -> str:
    """A curl command for the model at the server's address; what a custom pipeline reads is not known, often a text."""
    body = orjson.dumps(EXAMPLES[model.task or "text-classification"]).decode().replace("'", "'\\''")
    return f"curl {url}/v1/models/{model.name}:predict -H 'Content-Type: application/json' -d '{body}'"

"""Descriptions of the routes that only use a model's tokenizer."""

from __future__ import annotations

from functools import partial
from typing import Any

from hf_runtime.api.openapi.openai import ERRORS, describe_request
from hf_runtime.api.openapi.operation import COMPUTING, JSON, Operations, Served, errors, examples, ok, operation
from hf_runtime.api.openapi.schemas import Json
from hf_runtime.api.tokenization import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeChatRequest,
    TokenizePromptRequest,
    TokenizeResponse,
)

_TAG = "Tokenizer"


def describe_routes(served: Served) -> Operations:
    """Return the descriptions by method and path."""
    of, describe = served.schemas.of, partial(describe_request, served, prefix=ERRORS)
    names, chats = served.models.names, served.find_models(("text-generation",))
    named: dict[str, Any] = {"model": names[0]} if names else {}
    shown: dict[str, Json] = {"prompt": {**named, "prompt": "The capital of France is"}}
    if chats:
        # Models of the other tasks have no chat template.
        question = {"role": "user", "content": "What is the capital of France?"}
        shown["messages"] = {"model": chats[0], "messages": [question]}
    return {
        "POST /tokenize": operation(
            _TAG,
            "tokenize",
            "Tokenize a text, or the prompt of a chat",
            {**ok(of(TokenizeResponse)), **errors(ERRORS, COMPUTING)},
            body={
                JSON: {
                    "schema": {"anyOf": [describe(TokenizePromptRequest), describe(TokenizeChatRequest)]},
                    "examples": examples(shown),
                }
            },
        ),
        "POST /detokenize": operation(
            _TAG,
            "detokenize",
            "Turn tokens into text",
            {**ok(of(DetokenizeResponse)), **errors(ERRORS, COMPUTING)},
            body={JSON: {"schema": describe(DetokenizeRequest), "example": {**named, "tokens": [1, 2, 3]}}},
        ),
    }

"""Descriptions of the routes of OpenAI's Responses API."""

from __future__ import annotations

from hf_runtime.api.openai.responses import RESPONSES_PATHS, ResponseRequest
from hf_runtime.api.openai.responses_output import Response, ResponseEvent
from hf_runtime.api.openapi.openai import ERRORS, describe_chat_posts
from hf_runtime.api.openapi.operation import JSON, Operations, Served, answer, events

_EVENT = 'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":4,…}\n\n'


def describe_routes(served: Served) -> Operations:
    """Return the descriptions by method and path."""
    of = served.schemas.of
    return describe_chat_posts(
        served,
        RESPONSES_PATHS,
        "OpenAI responses",
        "responses",
        "Answer an input with output items",
        ResponseRequest,
        {"input": "What is the capital of France?", "max_output_tokens": 20},
        answer({JSON: {"schema": of(Response)}, "text/event-stream": events(of(ResponseEvent), _EVENT)}),
        ERRORS,
    )

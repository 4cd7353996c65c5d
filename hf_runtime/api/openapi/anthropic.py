"""Descriptions of the routes of Anthropic's Messages API."""

from __future__ import annotations

from hf_runtime.api.anthropic.errors import AnthropicError
from hf_runtime.api.anthropic.messages import COUNT_TOKENS_PATHS, MESSAGES_PATHS, CountTokensRequest, MessagesRequest
from hf_runtime.api.anthropic.output import MessageAnswer, MessageEvent, MessageTokens
from hf_runtime.api.openapi.openai import describe_chat_posts
from hf_runtime.api.openapi.operation import JSON, Operations, Served, answer, events, ok

_TAG = "Anthropic messages"

#: Prefix of the error components in Anthropic's format.
ERRORS = "Anthropic"

_EVENT = (
    "event: content_block_delta\n"
    'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Paris"}}\n\n'
)


def describe_routes(served: Served) -> Operations:
    """Return the descriptions by method and path."""
    of = served.schemas.of
    question = [{"role": "user", "content": "What is the capital of France?"}]
    event = {"anyOf": [of(MessageEvent), of(AnthropicError)]}
    messages = describe_chat_posts(
        served,
        MESSAGES_PATHS,
        _TAG,
        "messages",
        "Answer a chat with content blocks",
        MessagesRequest,
        {"messages": question, "max_tokens": 20},
        answer({JSON: {"schema": of(MessageAnswer)}, "text/event-stream": events(event, _EVENT)}),
        ERRORS,
    )
    counts = describe_chat_posts(
        served,
        COUNT_TOKENS_PATHS,
        _TAG,
        "count_tokens",
        "Count the tokens of a chat's prompt",
        CountTokensRequest,
        {"messages": question},
        ok(of(MessageTokens)),
        ERRORS,
    )
    return {**messages, **counts}

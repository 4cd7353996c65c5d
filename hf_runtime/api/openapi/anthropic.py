"""Descriptions of the routes of Anthropic's Messages API."""

from __future__ import annotations

from hf_runtime.api.anthropic.errors import AnthropicError
from hf_runtime.api.anthropic.messages import MessagesRequest
from hf_runtime.api.anthropic.output import MessageAnswer, MessageEvent
from hf_runtime.api.error_formats import MESSAGES_PATHS
from hf_runtime.api.openapi.openai import describe_chat_posts
from hf_runtime.api.openapi.operation import Operations, Served

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
    return describe_chat_posts(
        served,
        MESSAGES_PATHS,
        "Anthropic messages",
        "messages",
        "Answer a chat with content blocks",
        MessagesRequest,
        {"messages": question, "max_tokens": 20},
        (of(MessageAnswer), event, _EVENT),
        ERRORS,
    )

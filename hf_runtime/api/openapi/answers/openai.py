"""OpenAI's objects: https://platform.openai.com/docs/api-reference."""

from __future__ import annotations

from typing import Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

_STRICT = ConfigDict(extra="forbid")

FinishReason = Literal["stop", "length", "tool_calls"]


@with_config(_STRICT)
class CachedTokens(TypedDict):
    """Tokens that need not be computed, because another prompt began with the same."""

    cached_tokens: int


@with_config(_STRICT)
class TokenUsage(TypedDict):
    """What an answer cost, in tokens."""

    prompt_tokens: int
    completion_tokens: NotRequired[int]
    total_tokens: int
    prompt_tokens_details: NotRequired[CachedTokens]


class _Opening(TypedDict):
    id: str
    created: int
    model: str
    system_fingerprint: None


@with_config(_STRICT)
class CompletionLogprobs(TypedDict):
    """Log probabilities of the tokens of a choice."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


@with_config(_STRICT)
class CompletionChoice(TypedDict):
    """A continuation of a prompt; in a stream, the next part of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


@with_config(_STRICT)
class Completion(_Opening):
    """Continuations of all prompts; in a stream, an event."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: NotRequired[TokenUsage | None]


@with_config(_STRICT)
class CalledFunction(TypedDict):
    """A function, and its arguments as JSON."""

    name: str
    arguments: str


@with_config(_STRICT)
class ChatToolCall(TypedDict):
    """A tool that is called; `index` is of streams."""

    index: NotRequired[int]
    id: str
    type: Literal["function"]
    function: CalledFunction


@with_config(_STRICT)
class ChatToken(TypedDict):
    """A token with its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None


@with_config(_STRICT)
class ChatWrittenToken(ChatToken):
    """A written token, and the likeliest in its place."""

    top_logprobs: list[ChatToken]


@with_config(_STRICT)
class ChatLogprobs(TypedDict):
    """Log probabilities of the tokens of a choice."""

    content: list[ChatWrittenToken]
    refusal: None


@with_config(_STRICT)
class ChatAnswer(TypedDict):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ChatToolCall]]


@with_config(_STRICT)
class ChatChoice(TypedDict):
    """An answer to the chat."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


@with_config(_STRICT)
class ChatCompletion(_Opening):
    """The answers to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: TokenUsage


@with_config(_STRICT)
class ChatDelta(TypedDict):
    """The next part of the assistant's turn."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    refusal: NotRequired[None]
    tool_calls: NotRequired[list[ChatToolCall]]


@with_config(_STRICT)
class ChatChunkChoice(TypedDict):
    """The next part of an answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


@with_config(_STRICT)
class ChatCompletionChunk(_Opening):
    """An event of a stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: NotRequired[TokenUsage | None]


@with_config(_STRICT)
class EmbeddingObject(TypedDict):
    """The vector of a text, or its little-endian float32 values in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


@with_config(_STRICT)
class EmbeddingList(TypedDict):
    """A vector for each text."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: TokenUsage


@with_config(_STRICT)
class ModelObject(TypedDict):
    """A model of this server."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


@with_config(_STRICT)
class ModelList(TypedDict):
    """All models, ready or not."""

    object: Literal["list"]
    data: list[ModelObject]


@with_config(_STRICT)
class OpenAIErrorObject(TypedDict):
    """What is wrong, and which field of the request is to blame."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


@with_config(_STRICT)
class OpenAIError(TypedDict):
    """An error; in a stream, an event."""

    error: OpenAIErrorObject

"""Log probabilities of tokens, in the formats of chats and of completions."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict

from hf_runtime.api.http.json_body import clamp_logprob
from hf_runtime.contract.answer_type import answer_type


@answer_type
class ChatToken(TypedDict):
    """A token with its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None


@answer_type
class ChatWrittenToken(ChatToken):
    """A generated token, and the most likely tokens at its position."""

    top_logprobs: list[ChatToken]


@answer_type
class ChatLogprobs(TypedDict):
    """Log probabilities of the tokens of a choice."""

    content: list[ChatWrittenToken]
    refusal: None


@answer_type
class CompletionLogprobs(TypedDict):
    """Log probabilities of the tokens of a choice."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


def render_chat_logprobs(tokens: Sequence[Mapping[str, Any]]) -> ChatLogprobs:
    """Return a chat's `logprobs` (https://platform.openai.com/docs/api-reference/chat/object)."""
    content: list[ChatWrittenToken] = [
        {**_render_token(token), "top_logprobs": [_render_token(other) for other in token["top"]]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def _render_token(token: Mapping[str, Any]) -> ChatToken:
    return {"token": token["token"], "logprob": clamp_logprob(token), "bytes": token["bytes"]}


class CompletionLogprobsRenderer:
    """Renderer of the `logprobs` of one choice of a completion, whole or delta by delta.

    Source: https://platform.openai.com/docs/api-reference/completions/object
    """

    def __init__(self) -> None:
        # Tokens may be parts of characters, and offsets count characters.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def render(self, tokens: Sequence[Mapping[str, Any]]) -> CompletionLogprobs:
        """Return the `logprobs` of the next tokens.

        `top_logprobs` always includes the generated token.
        """
        return {
            "tokens": [_name_token(token) for token in tokens],
            "token_logprobs": [clamp_logprob(token) for token in tokens],
            "top_logprobs": [
                {_name_token(other): clamp_logprob(other) for other in (*token["top"], token)} for token in tokens
            ],
            "text_offset": [self._advance_offset(token) for token in tokens],
        }

    def _advance_offset(self, token: Mapping[str, Any]) -> int:
        offset = self._offset
        raw = token["bytes"]
        self._offset += len(token["token"] if raw is None else self._decoder.decode(bytes(raw)))
        return offset


def _name_token(token: Mapping[str, Any]) -> str:
    """Return a token as a key.

    Parts of characters are shown as bytes, because they would all look alike as text.
    """
    if token["bytes"] is not None:
        try:
            return bytes(token["bytes"]).decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token["bytes"])
    return str(token["token"])

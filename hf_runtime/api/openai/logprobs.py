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
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


@answer_type
class PromptLogprob(TypedDict):
    """Log probability and rank of a token that the prompt has, or could have, at a position."""

    logprob: float
    rank: int
    decoded_token: str


#: For each token of a prompt, the log probabilities of tokens at its position by token id; null for the first one.
PromptLogprobs = list[dict[str, PromptLogprob] | None]


def render_chat_logprobs(tokens: Sequence[Mapping[str, Any]]) -> ChatLogprobs:
    """Return a chat's `logprobs` (https://platform.openai.com/docs/api-reference/chat/object)."""
    content: list[ChatWrittenToken] = [
        {**_render_token(token), "top_logprobs": [_render_token(other) for other in token["top"]]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def _render_token(token: Mapping[str, Any]) -> ChatToken:
    return {"token": token["token"], "logprob": clamp_logprob(token), "bytes": token["bytes"]}


def render_prompt_logprobs(tokens: Sequence[Mapping[str, Any]], count: int) -> PromptLogprobs:
    """Return `prompt_logprobs` in vLLM's format.

    Each position has the token of the prompt first, and then the `count` likeliest ones.

    Source: https://docs.vllm.ai/en/stable/api/vllm/logprobs/
    """
    return [
        None
        if token["logprob"] is None
        else {
            str(token["id"]): _render_ranked(token, token["rank"]),
            **{str(other["id"]): _render_ranked(other, i + 1) for i, other in enumerate(token["top"][:count])},
        }
        for token in tokens
    ]


def _render_ranked(token: Mapping[str, Any], rank: int) -> PromptLogprob:
    return {"logprob": clamp_logprob(token), "rank": rank, "decoded_token": token["token"]}


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
            "top_logprobs": [_render_top(token, token["top"]) for token in tokens],
            "text_offset": [self._advance_offset(token) for token in tokens],
        }

    def render_echo(
        self, prompt: Sequence[Mapping[str, Any]], count: int, text: str, tokens: Sequence[Mapping[str, Any]]
    ) -> CompletionLogprobs:
        """Return the `logprobs` of a prompt and of the first tokens after it.

        Those of the prompt's first token are null.

        Args:
            count: alternatives of each token of the prompt.
            text: the prompt, with or without the text after it.
        """
        offsets = [self._advance_prompt_offset(token, text) for token in prompt]
        # The rest of the prompt, such as an incomplete character, is no part of the text after it.
        self._decoder.reset()
        later = self.render(tokens)
        return {
            "tokens": [_name_token(token) for token in prompt] + later["tokens"],
            "token_logprobs": [None if t["logprob"] is None else clamp_logprob(t) for t in prompt]
            + later["token_logprobs"],
            "top_logprobs": [None if t["logprob"] is None else _render_top(t, t["top"][:count]) for t in prompt]
            + later["top_logprobs"],
            "text_offset": offsets + later["text_offset"],
        }

    def _advance_prompt_offset(self, token: Mapping[str, Any], text: str) -> int:
        offset, special = self._offset, token["special"]
        new = token["token"] if special else self._decoder.decode(bytes(token["bytes"] or b""))
        if not text.startswith(new, offset):
            # A tokenizer adds special tokens, and a space before the first word, which are no part of the text.
            new = "" if special else new.removeprefix(" ") if text.startswith(new.removeprefix(" "), offset) else new
        self._offset += len(new)
        return offset

    def _advance_offset(self, token: Mapping[str, Any]) -> int:
        offset = self._offset
        raw = token["bytes"]
        self._offset += len(token["token"] if raw is None else self._decoder.decode(bytes(raw)))
        return offset


def _render_top(token: Mapping[str, Any], top: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {_name_token(other): clamp_logprob(other) for other in (*top, token)}


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

"""Log probabilities of tokens, in the form of chats and in that of completions."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

from hf_runtime.api.http.json_body import finite_logprob


def chat_logprobs(tokens: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A chat's `logprobs` (https://platform.openai.com/docs/api-reference/chat/object)."""
    content = [{**_entry(token), "top_logprobs": [_entry(other) for other in token["top"]]} for token in tokens]
    return {"content": content, "refusal": None}


def _entry(token: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": token["token"], "logprob": finite_logprob(token), "bytes": token["bytes"]}


class CompletionLogprobs:
    """The `logprobs` of one choice of a completion, also piece by piece.

    Source: https://platform.openai.com/docs/api-reference/completions/object
    """

    def __init__(self) -> None:
        # Tokens may be parts of characters, and offsets are of characters.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def render(self, tokens: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The next tokens; each stands among the likeliest in its place, whether or not it is one of them."""
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [finite_logprob(token) for token in tokens],
            "top_logprobs": [
                {_name(other): finite_logprob(other) for other in (*token["top"], token)} for token in tokens
            ],
            "text_offset": [self._next_offset(token) for token in tokens],
        }

    def _next_offset(self, token: Mapping[str, Any]) -> int:
        offset = self._offset
        raw = token["bytes"]
        self._offset += len(token["token"] if raw is None else self._decoder.decode(bytes(raw)))
        return offset


def _name(token: Mapping[str, Any]) -> str:
    """A token as a key: parts of characters would all look alike."""
    if token["bytes"] is not None:
        try:
            return bytes(token["bytes"]).decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token["bytes"])
    return str(token["token"])

"""Requests that only use a model's tokenizer."""

from __future__ import annotations

from typing import Any

import msgspec
from typing_extensions import TypedDict


class TokenizeText(msgspec.Struct, tag="text", array_like=True, frozen=True):
    """Request for the tokens of a text; `with_names` adds their names in the vocabulary."""

    text: str
    add_special_tokens: bool = True
    with_names: bool = False


class TokenizeChat(msgspec.Struct, tag="chat", array_like=True, frozen=True):
    """Request for the tokens of a chat's prompt; the chat is an instance of text generation."""

    chat: Any
    with_names: bool = False


class Detokenize(msgspec.Struct, tag="tokens", array_like=True, frozen=True):
    """Request for the text of tokens."""

    tokens: list[int]


TokenizerRequest = TokenizeText | TokenizeChat | Detokenize


class TokenizerAnswer(TypedDict):
    """Tokens and their text.

    Attributes:
        token_strs: names of the tokens in the vocabulary, if they are requested.
        text: text of the tokens, if that is requested.
        max_length: most tokens that the model reads, or None if it has no limit.
    """

    tokens: list[int]
    token_strs: list[str] | None
    text: str | None
    max_length: int | None

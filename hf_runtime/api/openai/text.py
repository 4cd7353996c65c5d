"""Inputs of completions and embeddings.

Source: https://platform.openai.com/docs/api-reference/completions/create
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard

from pydantic import Field, PlainValidator

_Tokens = Annotated[list[int], Field(min_length=1)]

#: A string, or token ids.
Text = str | list[int]


@dataclass(frozen=True, slots=True)
class Texts:
    """One or several texts.

    Attributes:
        is_list: true if the client sent a list of texts.
    """

    texts: tuple[Text, ...]
    is_list: bool

    def locate(self, field: str, index: int) -> str:
        """Return the path of a text in the field."""
        return f"{field}[{index}]" if self.is_list else field


def _parse_texts(value: Any) -> Texts:
    if isinstance(value, str) or _is_tokens(value):
        return Texts((value,), is_list=False)
    if not isinstance(value, list):
        raise ValueError("must be a string, a list of strings, a list of token ids or a list of such lists")
    if not value:
        raise ValueError("must not be empty")
    for index, text in enumerate(value):
        if not isinstance(text, str) and not _is_tokens(text):
            raise ValueError(f"element {index} is neither a string nor a list of token ids")
    return Texts(tuple(value), is_list=True)


def _is_tokens(value: Any) -> TypeGuard[list[int]]:
    """Return true for a list of integers; booleans, which Python counts as integers, are none."""
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


_List = Annotated[list[str | _Tokens], Field(min_length=1)]

#: A field that holds a string, a list of strings, a list of token ids or a list of lists of token ids.
TextsField = Annotated[Texts, PlainValidator(_parse_texts, json_schema_input_type=str | _Tokens | _List)]

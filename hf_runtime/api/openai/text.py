"""The many ways to write a text, or texts: https://platform.openai.com/docs/api-reference/completions/create."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard

from pydantic import Field, PlainValidator

_Tokens = Annotated[list[int], Field(min_length=1)]

#: A text, or its tokens.
Text = str | list[int]


@dataclass(frozen=True, slots=True)
class Texts:
    """One or several texts.

    Attributes:
        several: whether the client wrote a list of them.
    """

    texts: tuple[Text, ...]
    several: bool

    def place(self, field: str, index: int) -> str:
        """The path of a text in the field."""
        return f"{field}[{index}]" if self.several else field


def _read(value: Any) -> Texts:
    if isinstance(value, str) or _is_tokens(value):
        return Texts((value,), several=False)
    if not isinstance(value, list):
        raise ValueError("must be a string, a list of strings, a list of token ids or a list of such lists")
    if not value:
        raise ValueError("must not be empty")
    for index, text in enumerate(value):
        if not isinstance(text, str) and not _is_tokens(text):
            raise ValueError(f"element {index} is neither a string nor a list of token ids")
    return Texts(tuple(value), several=True)


def _is_tokens(value: Any) -> TypeGuard[list[int]]:
    """Whether this is a list of whole numbers; true and false are none, though Python counts them in."""
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


_Several = Annotated[list[str | _Tokens], Field(min_length=1)]
_Written = str | _Tokens | _Several

#: A field that holds a string, a list of strings, a list of token ids or a list of lists of token ids.
TextsField = Annotated[Texts, PlainValidator(_read, json_schema_input_type=_Written)]

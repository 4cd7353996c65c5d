"""Parts of an answer, and readers that find them in generated text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ParsedToolCall:
    """Tool call in a model's answer; `arguments` is a JSON object as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that a model wrote to think, before or between its content."""

    text: str


#: Content, reasoning or a call.
AnswerPart = str | Reasoning | ParsedToolCall


class AnswerReader(Protocol):
    """Streaming parser of one answer; the result does not depend on its chunks."""

    def feed(self, text: str) -> list[AnswerPart]:
        """Add text, and return the parts that are final with it."""

    def end(self, *, cut: bool = False) -> list[AnswerPart]:
        """Return the parts that were held back.

        Args:
            cut: the answer was cut by its length, so that an unfinished call is neither content nor a call.
        """


def dump_arguments(value: Any) -> str:
    """Return arguments as JSON that can be encoded as UTF-8."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair can be escaped in JSON, but not encoded as UTF-8.
    return text if text.isascii() or _is_encodable(text) else json.dumps(value, allow_nan=False)


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)

"""What the tasks answer to one instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from hf_runtime.settings import Task

_STRICT = ConfigDict(extra="forbid")


@with_config(_STRICT)
class Label(TypedDict):
    """A label of text-classification."""

    label: str
    score: float


@with_config(_STRICT)
class TokenLabel(TypedDict):
    """A token of token-classification; start and end are characters, null if the tokenizer does not know them."""

    entity: str
    score: float
    index: int
    word: str
    start: int | None
    end: int | None


@with_config(_STRICT)
class EntityGroup(TypedDict):
    """An entity of token-classification with an aggregation strategy."""

    entity_group: str
    score: float
    word: str
    start: int | None
    end: int | None


@with_config(_STRICT)
class Span(TypedDict):
    """An answer to a question: `context[start:end]`, empty where there may be none."""

    score: float
    start: int
    end: int
    answer: str


@with_config(_STRICT)
class FilledMask(TypedDict):
    """A token in place of a mask, and the text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


@with_config(_STRICT)
class Embedding(TypedDict):
    """The vector of a text, with `details`."""

    embedding: list[float]
    prompt_tokens: int


@with_config(_STRICT)
class CalledTool(TypedDict):
    """A call of a tool; the arguments are JSON."""

    name: str
    arguments: str


@with_config(_STRICT)
class LikelyToken(TypedDict):
    """A token with its log probability; null, where JSON has no number for it, is next to impossible."""

    token: str
    id: int
    logprob: float | None
    bytes: list[int] | None
    special: bool


@with_config(_STRICT)
class WrittenToken(LikelyToken):
    """A written token, and the likeliest in its place."""

    top: list[LikelyToken]


class _Details(TypedDict):
    stop_sequence: NotRequired[str]
    prompt_tokens: NotRequired[int]
    cached_tokens: NotRequired[int]
    generated_tokens: NotRequired[int]
    logprobs: NotRequired[list[WrittenToken]]
    tool_calls: NotRequired[list[CalledTool]]


@with_config(_STRICT)
class GeneratedText(_Details):
    """A text that was written, the whole chat if a full text is asked for; more with `details`."""

    generated_text: str | list[dict[str, Any]]
    finish_reason: NotRequired[Literal["stop", "length"]]


@with_config(_STRICT)
class GeneratedPiece(_Details):
    """An object of a stream; the last one of an instance has a `finish_reason`."""

    index: int
    sequence: NotRequired[int]
    generated_text: str
    finish_reason: NotRequired[Literal["stop", "length", "error", "cancelled"]]
    error: NotRequired[str]


ANSWERS: Mapping[Task, Any] = {
    "text-classification": list[Label],
    "token-classification": list[TokenLabel | EntityGroup],
    "question-answering": Span | list[Span],
    "text-generation": list[GeneratedText],
    "text2text-generation": list[GeneratedText],
    "fill-mask": list[FilledMask] | list[list[FilledMask]],
    "feature-extraction": list[float] | list[list[list[float]]] | Embedding,
}

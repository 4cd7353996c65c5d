"""Notations of tool calls, one for each family of models."""

from __future__ import annotations

from runners.tasks.notations.json_calls import (
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    FUNCTIONARY,
    GRANITE,
    HERMES,
    KIMI_K2,
    LLAMA,
    MISTRAL,
    MISTRAL_ARGS,
)
from runners.tasks.notations.notation import Notation
from runners.tasks.notations.pythonic import PYTHONIC
from runners.tasks.notations.xml_calls import GLM_45, QWEN3_CODER

#: All notations, in the order in which a template is compared with them. gpt-oss is in `answers.harmony`, because its
#: calls are one kind of its messages.
NOTATIONS: tuple[Notation, ...] = (
    KIMI_K2,
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    MISTRAL_ARGS,
    MISTRAL,
    QWEN3_CODER,
    GLM_45,
    FUNCTIONARY,
    GRANITE,
    LLAMA,
    PYTHONIC,
    HERMES,
)


def find_notation(template: str, parser: str | None = None) -> Notation | None:
    """Return the notation of a chat template, or of a parser's name; None if it is unknown.

    If several notations have the parser's name, the template decides.
    """
    candidates = [each for each in NOTATIONS if parser is None or parser in each.parsers]
    known = next((notation for notation in candidates if notation.is_in(template)), None)
    return known if known is not None or parser is None else next(iter(candidates), None)

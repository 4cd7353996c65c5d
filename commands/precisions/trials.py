"""What each task is tried with, and how its answers are compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.precisions.comparing import (
    compare_entities,
    compare_fillings,
    compare_labels,
    compare_spans,
    compare_texts,
    compare_vectors,
)
from commands.precisions.sentences import SENTENCES
from hf_runtime.settings import SettingsError, Task

#: The masked word is an early one, so that no model is too short for it.
_MASKED = 8


def _texts(_: Any) -> list[Any]:
    return [text for text, _ in SENTENCES]


def _questions(_: Any) -> list[Any]:
    """Each with a context of its sentence and the next one."""
    texts = [text for text, _ in SENTENCES]
    following = [*texts[1:], texts[0]]
    return [
        {"question": question, "context": f"{text} {after}"}
        for (text, question), after in zip(SENTENCES, following, strict=True)
    ]


def _masked(tokenizer: Any) -> list[Any]:
    """Sentences without one of their words."""
    return [_without_a_word(text, tokenizer.mask_token) for text, _ in SENTENCES]


def _without_a_word(text: str, mask: str) -> str:
    words = list(re.finditer(r"\w+", text))
    word = words[min(len(words) // 2, _MASKED)]
    return text[: word.start()] + mask + text[word.end() :]


@dataclass(frozen=True, slots=True)
class Trial:
    """How a task is tried.

    Attributes:
        compare: answers in float32, and in another precision, to what differs in words.
        parameters: of each item.
        instances: the built-in ones, as many as there are SENTENCES, for a model with that tokenizer.
    """

    compare: Callable[[Sequence[Any], Sequence[Any]], str]
    parameters: Mapping[str, Any]
    instances: Callable[[Any], list[Any]] = _texts


_CUT: Mapping[str, Any] = {"truncation": True}
_WRITTEN: Mapping[str, Any] = {**_CUT, "max_new_tokens": 32, "do_sample": False}

TRIALS: Mapping[Task, Trial] = {
    "text-classification": Trial(compare_labels, {**_CUT, "top_k": None}),
    "token-classification": Trial(compare_entities, _CUT),
    "question-answering": Trial(compare_spans, {}, _questions),
    "text-generation": Trial(compare_texts, {**_WRITTEN, "return_full_text": False}),
    "text2text-generation": Trial(compare_texts, _WRITTEN),
    "fill-mask": Trial(compare_fillings, _CUT, _masked),
    "feature-extraction": Trial(compare_vectors, _CUT),
}


def read_instances(path: Path) -> list[Any]:
    """Instances of the operator's own, one in JSON on each line.

    Raises:
        SettingsError: the file cannot be read, or a line of it.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not text in UTF-8") from None
    instances = []
    for number, line in enumerate(lines, 1):
        try:
            instances += [json.loads(line)] if line.strip() else []
        except ValueError:
            raise SettingsError(f'{path}, line {number}: is not JSON; a text is "in quotation marks"') from None
    if not instances:
        raise SettingsError(f"{path} holds no instances")
    return instances

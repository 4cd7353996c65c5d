"""Instances, parameters and comparison for each task."""

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

#: Largest index of the masked word: an early one, so that no model truncates it.
_MAX_MASKED_INDEX = 8


def _texts(_: Any) -> list[Any]:
    return [text for text, _ in SENTENCES]


def _questions(_: Any) -> list[Any]:
    """Return the questions, each with its sentence and the next one as the context."""
    texts = [text for text, _ in SENTENCES]
    following = [*texts[1:], texts[0]]
    return [
        {"question": question, "context": f"{text} {after}"}
        for (text, question), after in zip(SENTENCES, following, strict=True)
    ]


def _masked_sentences(tokenizer: Any) -> list[Any]:
    """Return the sentences with one word masked."""
    return [_mask_word(text, tokenizer.mask_token) for text, _ in SENTENCES]


def _mask_word(text: str, mask: str) -> str:
    words = list(re.finditer(r"\w+", text))
    word = words[min(len(words) // 2, _MAX_MASKED_INDEX)]
    return text[: word.start()] + mask + text[word.end() :]


@dataclass(frozen=True, slots=True)
class Trial:
    """Test of one task.

    Attributes:
        compare: accepts the answers in float32 and in another precision, and describes the difference.
        parameters: parameters of each item.
        instances: returns the built-in instances, one per sentence, given the model's tokenizer.
    """

    compare: Callable[[Sequence[Any], Sequence[Any]], str]
    parameters: Mapping[str, Any]
    instances: Callable[[Any], list[Any]] = _texts


_TRUNCATED: Mapping[str, Any] = {"truncation": True}
_GENERATED: Mapping[str, Any] = {**_TRUNCATED, "max_new_tokens": 32, "do_sample": False}

TRIALS: Mapping[Task, Trial] = {
    "text-classification": Trial(compare_labels, {**_TRUNCATED, "top_k": None}),
    "token-classification": Trial(compare_entities, _TRUNCATED),
    "question-answering": Trial(compare_spans, {}, _questions),
    "text-generation": Trial(compare_texts, {**_GENERATED, "return_full_text": False}),
    "text2text-generation": Trial(compare_texts, _GENERATED),
    "fill-mask": Trial(compare_fillings, _TRUNCATED, _masked_sentences),
    "feature-extraction": Trial(compare_vectors, _TRUNCATED),
}


def read_instances(path: Path) -> list[Any]:
    """Read the operator's own instances from a file with one JSON value per line.

    Raises:
        SettingsError: the file cannot be read, is empty, or has a line that is not JSON.
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

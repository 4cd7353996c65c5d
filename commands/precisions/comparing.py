"""Comparison of answers with those in float32, one function per kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap, takewhile
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt


def compare_labels(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Compare answers of text-classification by best label and the scores of all labels."""
    pairs = list(zip(reference, answers, strict=True))
    same = sum(before[0]["label"] == after[0]["label"] for before, after in pairs)
    scores = [(_by_label(before), _by_label(after)) for before, after in pairs]
    changes = [abs(before[label] - after[label]) for before, after in scores for label in before]
    average = _format_change(np.mean(changes))
    return f"{same} of {len(pairs)} labels the same, scores moved by {average}, {_format_maximum(changes)}"


def compare_entities(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Compare answers of token-classification.

    Entities, or tokens, of either answer count as the same if the other answer has the same label at that position.
    """
    labels = [(_by_position(before), _by_position(after)) for before, after in zip(reference, answers, strict=True)]
    positions = [
        (before.get(position), after.get(position)) for before, after in labels for position in before.keys() | after
    ]
    aggregated = any("entity_group" in entity for answer in (*reference, *answers) for entity in answer)
    same = sum(before == after for before, after in positions)
    return f"{same} of {len(positions)} {'entities' if aggregated else 'labelled tokens'} the same"


def compare_spans(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Compare answers of question-answering, and the scores of answers that are the same."""
    pairs = list(zip(reference, answers, strict=True))
    changes = [abs(before["score"] - after["score"]) for before, after in pairs if before["answer"] == after["answer"]]
    return f"{len(changes)} of {len(pairs)} answers the same{_score_changes(changes)}"


def compare_fillings(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Compare answers of fill-mask by the best token of each mask.

    Scores are compared where the token is the same.
    """
    pairs = [
        masks
        for before, after in zip(reference, answers, strict=True)
        for masks in zip(_best_tokens(before), _best_tokens(after), strict=True)
    ]
    changes = [abs(before["score"] - after["score"]) for before, after in pairs if before["token"] == after["token"]]
    return f"{len(changes)} of {len(pairs)} first tokens the same{_score_changes(changes)}"


def compare_vectors(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Compare answers of feature-extraction by their cosine.

    Their shape is (hidden,) or (1, tokens, hidden); for the latter, the mean over the tokens is compared.
    """
    cosines = list(starmap(_cosine, zip(map(_vector, reference), map(_vector, answers), strict=True)))
    return f"cosine with the vectors of float32 {np.mean(cosines):.4f}, at least {np.min(cosines):.4f}"


def compare_texts(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Compare answers of generative tasks by the first text of each answer."""
    pairs = [
        (str(before[0]["generated_text"]), str(after[0]["generated_text"]))
        for before, after in zip(reference, answers, strict=True)
    ]
    same = sum(before == after for before, after in pairs)
    leading = fmean(starmap(_common_prefix_share, pairs))
    return f"{same} of {len(pairs)} texts the same, on average the first {leading:.0%} of their characters"


def _by_label(answer: Sequence[Any]) -> dict[str, float]:
    return {label["label"]: label["score"] for label in answer}


def _by_position(entities: Sequence[Any]) -> dict[Any, str]:
    """Return labels by start and end character, or by token if the tokenizer has no offsets."""
    return {
        (entity["start"], entity["end"], entity.get("index") if entity["start"] is None else None): _label(entity)
        for entity in entities
    }


def _label(entity: Any) -> str:
    label: str = entity["entity_group"] if "entity_group" in entity else entity["entity"]
    return label


def _best_tokens(answer: Any) -> list[Any]:
    """Return the best token of each mask; an answer has one list per mask if there are several."""
    return [tokens[0] for tokens in (answer if isinstance(answer[0], list) else [answer])]


def _vector(answer: Any) -> npt.NDArray[np.float64]:
    values = np.asarray(answer, dtype=np.float64)
    mean: npt.NDArray[np.float64] = values.reshape(-1, values.shape[-1]).mean(0)
    return mean


def _cosine(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> float:
    return float(before @ after / max(float(np.linalg.norm(before) * np.linalg.norm(after)), 1e-30))


def _common_prefix_share(before: str, after: str) -> float:
    """Return the length of the common prefix as a share of the longer text."""
    same = sum(1 for _ in takewhile(bool, map(str.__eq__, before, after)))
    return same / max(len(before), len(after)) if before or after else 1


def _score_changes(changes: Sequence[float]) -> str:
    return f", their scores moved {_format_maximum(changes)}" if changes else ""


def _format_maximum(changes: Sequence[float]) -> str:
    # numpy's maximum is NaN if any change is NaN, as when a small type overflows.
    return f"at most {_format_change(np.max(changes))}"


def _format_change(change: Any) -> str:
    return "under 0.001" if 0 < change < 0.001 else f"{change:.3f}"

"""How answers differ from those in float32, in the words of the task; answers are what runners give."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap, takewhile
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt


def compare_labels(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Of text-classification, with the scores of all labels."""
    pairs = list(zip(reference, answers, strict=True))
    same = sum(before[0]["label"] == after[0]["label"] for before, after in pairs)
    scores = [(_by_label(before), _by_label(after)) for before, after in pairs]
    changes = [abs(before[label] - after[label]) for before, after in scores for label in before]
    return f"{same} of {len(pairs)} labels the same, scores moved by {_size(np.mean(changes))}, {_most(changes)}"


def compare_entities(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Of token-classification: what either of two answers labels is the same if the other has that label there."""
    labels = [(_by_place(before), _by_place(after)) for before, after in zip(reference, answers, strict=True)]
    places = [(before.get(place), after.get(place)) for before, after in labels for place in before.keys() | after]
    aggregated = any("entity_group" in entity for answer in (*reference, *answers) for entity in answer)
    same = sum(before == after for before, after in places)
    return f"{same} of {len(places)} {'entities' if aggregated else 'labelled tokens'} the same"


def compare_spans(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Of question-answering; scores are compared where answers are the same."""
    pairs = list(zip(reference, answers, strict=True))
    changes = [abs(before["score"] - after["score"]) for before, after in pairs if before["answer"] == after["answer"]]
    return f"{len(changes)} of {len(pairs)} answers the same{_their_scores(changes)}"


def compare_fillings(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Of fill-mask, by the likeliest token of each mask; scores are compared where it is the same."""
    pairs = [
        masks
        for before, after in zip(reference, answers, strict=True)
        for masks in zip(_likeliest(before), _likeliest(after), strict=True)
    ]
    changes = [abs(before["score"] - after["score"]) for before, after in pairs if before["token"] == after["token"]]
    return f"{len(changes)} of {len(pairs)} first tokens the same{_their_scores(changes)}"


def compare_vectors(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Of feature-extraction, shape (hidden,) or (1, tokens, hidden), of which the mean over tokens is compared."""
    cosines = list(starmap(_cosine, zip(map(_vector, reference), map(_vector, answers), strict=True)))
    return f"cosine with the vectors of float32 {np.mean(cosines):.4f}, at least {np.min(cosines):.4f}"


def compare_texts(reference: Sequence[Any], answers: Sequence[Any]) -> str:
    """Of tasks that write, by the first text of each answer."""
    pairs = [
        (str(before[0]["generated_text"]), str(after[0]["generated_text"]))
        for before, after in zip(reference, answers, strict=True)
    ]
    same = sum(before == after for before, after in pairs)
    leading = fmean(starmap(_same_beginning, pairs))
    return f"{same} of {len(pairs)} texts the same, on average the first {leading:.0%} of their characters"


def _by_label(answer: Sequence[Any]) -> dict[str, float]:
    return {label["label"]: label["score"] for label in answer}


def _by_place(entities: Sequence[Any]) -> dict[Any, str]:
    """Labels by first and last character, or by token where the tokenizer does not tell those."""
    return {
        (entity["start"], entity["end"], entity.get("index") if entity["start"] is None else None): _label(entity)
        for entity in entities
    }


def _label(entity: Any) -> str:
    label: str = entity["entity_group"] if "entity_group" in entity else entity["entity"]
    return label


def _likeliest(answer: Any) -> list[Any]:
    """Of each mask; several of them have a list each."""
    return [tokens[0] for tokens in (answer if isinstance(answer[0], list) else [answer])]


def _vector(answer: Any) -> npt.NDArray[np.float64]:
    values = np.asarray(answer, dtype=np.float64)
    mean: npt.NDArray[np.float64] = values.reshape(-1, values.shape[-1]).mean(0)
    return mean


def _cosine(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> float:
    return float(before @ after / max(float(np.linalg.norm(before) * np.linalg.norm(after)), 1e-30))


def _same_beginning(before: str, after: str) -> float:
    """Share of the longer text."""
    same = sum(1 for _ in takewhile(bool, map(str.__eq__, before, after)))
    return same / max(len(before), len(after)) if before or after else 1


def _their_scores(changes: Sequence[float]) -> str:
    return f", their scores moved {_most(changes)}" if changes else ""


def _most(changes: Sequence[float]) -> str:
    # numpy's maximum is not a number if one of them is not, as where a small type overflows.
    return f"at most {_size(np.max(changes))}"


def _size(change: Any) -> str:
    return "under 0.001" if 0 < change < 0.001 else f"{change:.3f}"

"""Find which rows may share a batch with a model, by computing rows alone and together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import torch

from runners.engines.rows import Row

logger = logging.getLogger(__name__)

#: Tokens that are added to a row for its company: little, some, and more than any window of a convolution.
_LONGER = (1, 5, 48)

#: How far a row's output may move in company, by its size. Plain float32 rounds a thousand times less than what reads
#: padding moves it; other precisions round as much as this, and a model that reads padding is mostly far above it.
_TOLERANCE, _TOLERANCE_OTHERS = 1e-4, 0.1

Rows = Sequence[Row[Mapping[str, list[int]]]]


class BatchSharing(Enum):
    """Rows that a row may share a batch with."""

    ANY = "rows of any length"
    EQUAL = "rows of equal length"
    NONE = "none"


def stretched(row: Row[Mapping[str, list[int]]], more: int, special: frozenset[int]) -> Row[Mapping[str, list[int]]]:
    """Make a longer row: its last ordinary token stands there several times.

    Args:
        special: ids of special tokens, which some models count.
    """
    ids = row.inputs["input_ids"]
    place = max((i for i, token in enumerate(ids) if token not in special), default=len(ids) - 1)
    inputs = {
        name: [*values[:place], *[values[place]] * (more + 1), *values[place + 1 :]]
        for name, values in row.inputs.items()
    }
    return replace(row, inputs=inputs, length=row.length + more)


def turned(row: Row[Mapping[str, list[int]]], special: frozenset[int]) -> Row[Mapping[str, list[int]]]:
    """Make another row of equal length: its ordinary tokens stand in another order."""
    ids = row.inputs["input_ids"]
    places = [place for place, token in enumerate(ids) if token not in special]
    other = list(ids)
    for place, taken in zip(places, [*places[1:], *places[:1]], strict=True):
        other[place] = ids[taken]
    return replace(row, inputs={**row.inputs, "input_ids": other})


def find_batch_sharing(
    compute: Callable[[Rows], Iterable[Any]],
    row: Row[Mapping[str, list[int]]],
    *,
    special: frozenset[int],
    longest: int | None,
    exact: bool,
    can_pad: bool = True,
    longer: Sequence[int] = _LONGER,
) -> BatchSharing:
    """Compare outputs of rows alone and together.

    FNet, ConvBERT and Funnel, for example, read padding as text, BART's decoder and XLNet count it as positions, and
    RWKV mixes up the states of rows that are generated together.

    Args:
        compute: the model's outputs for rows.
        row: an example.
        special: ids of special tokens.
        longest: tokens that the model reads; None if it has no limit.
        exact: the model computes in float32.
        can_pad: the model has a way to leave padding out.
        longer: tokens that are added to the example for its company.

    Raises:
        Exception: what the model raises for the example alone.
    """
    tolerance = _TOLERANCE if exact else _TOLERANCE_OTHERS
    rooms = (min(more, longest - row.length) if longest is not None else more for more in longer if can_pad)
    rows = [row, *(stretched(row, more, special) for more in sorted(set(rooms)) if more > 0)]
    alone = [_outputs(compute([row]), 1)]
    if can_pad:
        try:
            alone += [_outputs(compute([one]), 1) for one in rows[1:]]
            batches = [*([0, number] for number in range(1, len(rows))), list(range(len(rows)))]
            if all(_same(compute, rows, alone, numbers, tolerance) for numbers in batches):
                return BatchSharing.ANY
        except Exception:
            logger.debug("rows of other lengths are not computed together", exc_info=True)
    try:
        equal = [row, turned(row, special)]
        if _same(compute, equal, [alone[0], _outputs(compute(equal[1:]), 1)], [0, 1], tolerance):
            return BatchSharing.EQUAL
    except Exception:
        logger.debug("rows of equal length are not computed together", exc_info=True)
    return BatchSharing.NONE


def _outputs(outputs: Iterable[Any], rows: int) -> list[torch.Tensor]:
    """The first output, and those of its shape: a span's starts and ends are two."""
    first, *others = (one for one in outputs if isinstance(one, torch.Tensor) and len(one) == rows)
    return [one.float() for one in (first, *(other for other in others if other.shape == first.shape))]


def _same(
    compute: Callable[[Rows], Iterable[Any]],
    rows: Rows,
    alone: Sequence[Sequence[torch.Tensor]],
    numbers: Sequence[int],
    tolerance: float,
) -> bool:
    """Return whether rows of these numbers give together what each gives alone."""
    together = _outputs(compute([rows[number] for number in numbers]), len(numbers))
    for place, number in enumerate(numbers):
        for right, computed in zip(alone[number], together, strict=True):
            expected, output = right[0], computed[place]
            if output.shape != expected.shape:
                # Tokens' outputs, followed by those of padding.
                if output.dim() != expected.dim() or output.shape[0] < expected.shape[0]:
                    return False
                output = output[: expected.shape[0]]
            # Not a number is not less than anything.
            if output.shape != expected.shape or not torch.dist(output, expected) <= tolerance * expected.norm():
                return False
    return True

"""Test which rows can share a batch without changing the outputs of the model.

Rows are computed alone and in batches, and the outputs are compared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import torch

from runners.engines.rows import Row

logger = logging.getLogger(__name__)

#: Tokens that the other rows of a batch are longer than the example. The last is longer than any convolution window.
_LONGER = (1, 5, 48)

#: Largest relative change of a row's output in a batch, in float32 and in other precisions. Padding that the model does
#: not mask changes float32 outputs a thousand times more than rounding does. In other precisions, rounding alone can
#: reach the tolerance, but padding mostly exceeds it by far.
_TOLERANCE_FLOAT32, _TOLERANCE_OTHERS = 1e-4, 0.1

Rows = Sequence[Row[Mapping[str, list[int]]]]


class BatchSharing(Enum):
    """Rows that can share a batch without changing each other's outputs.

    The values complete the log line "a row shares a batch with …".
    """

    ANY_LENGTH = "rows of any length"
    EQUAL_LENGTH = "rows of equal length only"
    NO_OTHER_ROW = "no other row"


def _lengthen_row(
    row: Row[Mapping[str, list[int]]], more: int, special: frozenset[int]
) -> Row[Mapping[str, list[int]]]:
    """Return a row that is longer by `more` tokens: its last ordinary token is repeated.

    Args:
        special: ids of special tokens, which some models count.
    """
    ids = row.inputs["input_ids"]
    index = max((i for i, token in enumerate(ids) if token not in special), default=len(ids) - 1)
    inputs = {
        name: [*values[:index], *[values[index]] * (more + 1), *values[index + 1 :]]
        for name, values in row.inputs.items()
    }
    return replace(row, inputs=inputs, length=row.length + more)


def _rotate_tokens(row: Row[Mapping[str, list[int]]], special: frozenset[int]) -> Row[Mapping[str, list[int]]]:
    """Return a different row of equal length: its ordinary tokens are rotated by one."""
    ids = row.inputs["input_ids"]
    indices = [index for index, token in enumerate(ids) if token not in special]
    rotated = list(ids)
    for target, source in zip(indices, [*indices[1:], *indices[:1]], strict=True):
        rotated[target] = ids[source]
    return replace(row, inputs={**row.inputs, "input_ids": rotated})


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
    """Find the rows that can share a batch, by comparing outputs of rows alone and in batches.

    FNet, ConvBERT and Funnel, for example, do not mask padding, BART's decoder and XLNet count it as positions, and
    RWKV mixes up the states of rows that are generated together.

    Args:
        compute: computes the model's outputs for a batch of rows.
        row: example row.
        special: ids of special tokens.
        longest: maximum number of tokens per row; None if the model has no limit.
        exact: whether the model computes in float32.
        can_pad: whether the model can mask padding.
        longer: tokens that the other rows of a batch are longer than the example.

    Raises:
        Exception: any error that the model raises for the example alone.
    """
    tolerance = _TOLERANCE_FLOAT32 if exact else _TOLERANCE_OTHERS
    additions = (min(more, longest - row.length) if longest is not None else more for more in longer if can_pad)
    rows = [row, *(_lengthen_row(row, more, special) for more in sorted(set(additions)) if more > 0)]
    alone = [_select_outputs(compute([row]), 1)]
    if can_pad:
        try:
            alone += [_select_outputs(compute([one]), 1) for one in rows[1:]]
            batches = [*([0, index] for index in range(1, len(rows))), list(range(len(rows)))]
            if all(_matches_alone(compute, rows, alone, indices, tolerance) for indices in batches):
                return BatchSharing.ANY_LENGTH
        except Exception:
            logger.debug("batches of rows of different lengths failed, so they are not used", exc_info=True)
    try:
        equal = [row, _rotate_tokens(row, special)]
        if _matches_alone(compute, equal, [alone[0], _select_outputs(compute(equal[1:]), 1)], [0, 1], tolerance):
            return BatchSharing.EQUAL_LENGTH
    except Exception:
        logger.debug("batches of rows of equal length failed, so they are not used", exc_info=True)
    return BatchSharing.NO_OTHER_ROW


def _select_outputs(outputs: Iterable[Any], rows: int) -> list[torch.Tensor]:
    """Return the first output with one entry per row, and all others of its shape.

    A model for question answering has two: start and end logits.
    """
    first, *others = (one for one in outputs if isinstance(one, torch.Tensor) and len(one) == rows)
    return [one.float() for one in (first, *(other for other in others if other.shape == first.shape))]


def _matches_alone(
    compute: Callable[[Rows], Iterable[Any]],
    rows: Rows,
    alone: Sequence[Sequence[torch.Tensor]],
    indices: Sequence[int],
    tolerance: float,
) -> bool:
    """Compute a batch and return whether each row's outputs match those of the row alone.

    Args:
        alone: outputs of each of `rows`, computed alone.
        indices: indices of the batch's rows in `rows` and `alone`.
    """
    together = _select_outputs(compute([rows[index] for index in indices]), len(indices))
    for position, index in enumerate(indices):
        for single, batched in zip(alone[index], together, strict=True):
            expected, output = single[0], batched[position]
            if output.shape != expected.shape:
                # Outputs per token end with those of padding.
                if output.dim() != expected.dim() or output.shape[0] < expected.shape[0]:
                    return False
                output = output[: expected.shape[0]]
            # `not <=` instead of `>`, so that NaN counts as a difference.
            if output.shape != expected.shape or not torch.dist(output, expected) <= tolerance * expected.norm():
                return False
    return True

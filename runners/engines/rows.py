"""Rows, batch limits, and the selection of the next batch from waiting rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import Field

InputsT = TypeVar("InputsT")


@dataclass(frozen=True, slots=True)
class Row(Generic[InputsT]):
    """One row of a batch.

    Attributes:
        inputs: inputs of the model, in the form that the task's runner uses.
        length: cost in tokens before padding.
        key: rows share a batch only if their keys are equal (for example equal pooling); the runner may read it.
        group: rows share a batch only if their groups are equal. It separates rows that the model itself cannot
            compute together, such as rows of different lengths.
    """

    inputs: InputsT
    length: int
    key: Hashable = None
    group: Hashable = None

    def shares_batch(self, other: Row[InputsT]) -> bool:
        """Return whether both rows may be in one batch."""
        return self.key == other.key and self.group == other.group


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of one forward pass.

    The constraints of the fields are checked when limits are loaded from a file.

    Attributes:
        max_rows: rows per batch.
        max_tokens: tokens of all rows; with padding, the number of rows times the longest row.
        padded: whether rows are padded to equal length, so that rows of similar length should share a batch.
    """

    max_rows: Annotated[int, Field(ge=1)]
    max_tokens: Annotated[int, Field(ge=1)]
    padded: bool = True


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Number of workers that compute batches in parallel, and threads per worker.

    The threads of one batch wait for each other after every operation; separate batches do not. So several workers
    with few threads each are faster while there is work for all of them. One batch uses all threads only while no
    other batch is computed.

    Attributes:
        workers: batches computed at the same time.
        threads: threads per worker; None keeps the current number.
        threads_alone: maximum threads of a batch that is computed alone; None keeps the current number.
    """

    workers: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] | None = None
    threads_alone: Annotated[int, Field(ge=1)] | None = None


def select_batch(rows: Sequence[Row[InputsT]], limits: BatchLimits) -> list[int]:
    """Pick the next batch from rows given in order of arrival.

    The oldest row is always in the batch, so no row starves. With padding, the other rows are its neighbours in order
    of length, added by the smallest difference in length as long as they fit the limits. Without padding, they are the
    next rows in order of arrival.

    Args:
        rows: waiting rows, oldest first; not empty.
        limits: limits of the batch; a single row over the token limit still forms a batch alone.

    Returns:
        Indices into `rows`; with padding, the shortest row first.
    """
    oldest = rows[0]
    if not limits.padded:
        return _select_oldest(rows, limits)
    by_length = sorted((i for i, row in enumerate(rows) if row.shares_batch(oldest)), key=lambda i: rows[i].length)
    low = by_length.index(0)
    high = low + 1
    while high - low < limits.max_rows:
        shorter = oldest.length - rows[by_length[low - 1]].length if low > 0 else None
        longer = rows[by_length[high]].length - oldest.length if high < len(by_length) else None
        if longer is not None and (high - low + 1) * rows[by_length[high]].length > limits.max_tokens:
            longer = None
        if shorter is not None and (high - low + 1) * rows[by_length[high - 1]].length > limits.max_tokens:
            shorter = None
        if longer is not None and (shorter is None or longer <= shorter):
            high += 1
        elif shorter is not None:
            low -= 1
        else:
            break
    return by_length[low:high]


def _select_oldest(rows: Sequence[Row[InputsT]], limits: BatchLimits) -> list[int]:
    picked: list[int] = []
    tokens = 0
    for index, row in enumerate(rows):
        if not row.shares_batch(rows[0]):
            continue
        tokens += row.length
        if picked and (tokens > limits.max_tokens or len(picked) == limits.max_rows):
            break
        picked.append(index)
    return picked

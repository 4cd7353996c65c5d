"""Which of the waiting rows make the next batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import Field

InputsT = TypeVar("InputsT")


@dataclass(frozen=True, slots=True)
class Row(Generic[InputsT]):
    """One line of a padded batch.

    Attributes:
        inputs: what the model reads, in the form of the task's runner.
        length: cost in tokens before padding.
        key: rows share a batch only if their keys are equal (for example equal pooling); the runner may read it.
        group: likewise, for what the model itself cannot compute together, such as rows of different lengths.
    """

    inputs: InputsT
    length: int
    key: Hashable = None
    group: Hashable = None

    def shares_batch(self, other: Row[InputsT]) -> bool:
        """Return whether both rows may be computed in one batch."""
        return self.key == other.key and self.group == other.group


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of one forward pass; the constraints are checked where limits are read from a file.

    Attributes:
        max_tokens: of all rows; where they are padded, after that (rows times the longest row).
        padded: rows are made equally long, so it pays to choose them of like length.
    """

    max_rows: Annotated[int, Field(ge=1)]
    max_tokens: Annotated[int, Field(ge=1)]
    padded: bool = True


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How many batches are computed at the same time, and with how many threads.

    The threads of one batch wait for each other after every operation; batches of their own do not. So while there is
    work for all, lanes of few threads are faster, and all threads serve one batch only where it is alone.

    Attributes:
        lanes: batches at the same time.
        threads: for each of them; None leaves the number as it is.
        threads_alone: for a batch that is computed alone, at most; None leaves the number as it is.
    """

    lanes: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] | None = None
    threads_alone: Annotated[int, Field(ge=1)] | None = None


def select_batch(rows: Sequence[Row[InputsT]], limits: BatchLimits) -> list[int]:
    """Pick the next batch from rows given in order of arrival.

    The oldest row is always in the batch, so nothing starves. Where rows are padded, its company is the contiguous run
    of rows, sorted by length, that lies around it and fits the limits with the least padding; else those that follow.

    Args:
        rows: waiting rows, oldest first; not empty.
        limits: a single row over the token budget still goes, alone.

    Returns:
        Indices into `rows`; of rows that are padded, the shortest first.
    """
    oldest = rows[0]
    if not limits.padded:
        return _first_that_fit(rows, limits)
    alike = sorted((i for i, row in enumerate(rows) if row.shares_batch(oldest)), key=lambda i: rows[i].length)
    low = alike.index(0)
    high = low + 1
    while high - low < limits.max_rows:
        shorter = oldest.length - rows[alike[low - 1]].length if low > 0 else None
        longer = rows[alike[high]].length - oldest.length if high < len(alike) else None
        if longer is not None and (high - low + 1) * rows[alike[high]].length > limits.max_tokens:
            longer = None
        if shorter is not None and (high - low + 1) * rows[alike[high - 1]].length > limits.max_tokens:
            shorter = None
        if longer is not None and (shorter is None or longer <= shorter):
            high += 1
        elif shorter is not None:
            low -= 1
        else:
            break
    return alike[low:high]


def _first_that_fit(rows: Sequence[Row[InputsT]], limits: BatchLimits) -> list[int]:
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

"""Which batches a model computes fastest that reads each of them once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from runners.engines.calibration.choice import Measurement, most_worthwhile, quickest_alone
from runners.engines.calibration.stopwatch import Stopwatch, own_share
from runners.engines.rows import BatchLimits, Parallelism, Row
from runners.kernels.cores import use_threads

logger = logging.getLogger(__name__)

#: Rows in a batch that are tried; a GPU wants many.
CPU_ROWS, GPU_ROWS = (1, 2, 4, 8, 16, 32), (1, 4, 16, 32, 64, 128, 256)

#: Tokens of the rows that are tried, over and over: what people ask is short, and rarely alike in length.
_LENGTHS = (40, 24, 64, 16, 48, 32)
#: The same where rows are padded, and so chosen alike in length.
_LENGTHS_ALIKE = (40, 36, 44, 38)

#: A batch of many short texts may have more rows than one of those that were tried.
_LEAST_TOKENS = 8


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How batches are made and computed."""

    limits: BatchLimits
    parallelism: Parallelism


@dataclass(frozen=True, slots=True)
class _Case:
    lanes: int
    threads: int | None
    rows: int

    @property
    def cost(self) -> int:
        return self.lanes * self.rows


def lanes_of(cores: int) -> list[tuple[int, int]]:
    """Numbers of lanes to try on a CPU, with the threads of each: a lane for each core, or one for all.

    Lanes of several threads would each keep threads of their own beside those of the first, which has all of them for
    a batch that is alone: more than there are cores.
    """
    return [(cores, 1), (1, cores)] if cores > 1 else [(1, 1)]


def calibrate(
    forward: Callable[[Sequence[Row[Any]]], Any],
    example: Row[Mapping[str, list[int]]],
    usual: BatchPlan,
    *,
    rows: Sequence[int],
    lanes: Sequence[tuple[int, int | None]],
    seconds: float,
    longest: int | None,
) -> BatchPlan | None:
    """Compute batches of several sizes, side by side or not, and choose.

    Args:
        forward: computes rows of equal key as one batch.
        example: a row whose inputs are repeated to make longer ones.
        usual: what is done where nothing is measured.
        rows: in a batch, to be tried; the fewest first, those of `usual` among them.
        lanes: to be tried: how many, with the threads of each, None to leave them as they are; those of `usual` first.
        seconds: that it may take.
        longest: tokens that the model can read; None if it has no limit.

    Returns:
        None if nothing can be said: others kept the processors busy, or a batch takes too long to try several.
    """
    cases = sorted((_Case(*some, number) for some in lanes for number in rows), key=lambda case: case.cost)
    cores = max(case.lanes * case.threads if case.threads else 0 for case in cases) or None
    lengths = _LENGTHS_ALIKE if usual.limits.padded else _LENGTHS
    every = [_row(example, min(lengths[i % len(lengths)], longest or max(lengths))) for i in range(rows[-1])]
    stopwatch: Stopwatch[_Case] = Stopwatch(seconds)
    with ThreadPoolExecutor(max(case.lanes for case in cases)) as others, own_share(cores) as share, _threads_kept():

        def compute(case: _Case) -> None:
            batch = every[: case.rows]
            beside = [others.submit(_compute, forward, batch, case.threads) for _ in range(case.lanes - 1)]
            _compute(forward, batch, case.threads)
            for one in beside:
                one.result()

        stopwatch.measure(cases, compute, lambda case: case.cost)
    if share.too_small:
        logger.info("which batches suit this machine was not measured: others keep it busy")
        return None
    by_rows = sorted(stopwatch.best.items(), key=lambda item: item[0].rows)
    tokens = {number: sum(row.length for row in every[:number]) for number in rows}
    measured = {
        case: Measurement(case.lanes, case.threads, case.rows, case.lanes * tokens[case.rows], took)
        for case, took in by_rows
    }
    before = measured.get(_Case(*lanes[0], usual.limits.max_rows))
    if before is None:
        return None
    return _plan(most_worthwhile(list(measured.values()), before), list(measured.values()), every, usual.limits)


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Set the number of threads to what it was, whatever the body does."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _plan(
    best: Measurement, measured: Sequence[Measurement], every: Sequence[Row[Any]], usual: BatchLimits
) -> BatchPlan:
    lengths = [row.length for row in every[: best.rows]]
    tokens = best.rows * max(lengths) if usual.padded else sum(lengths)
    # A batch is closed by the first text that does not fit: with room for one more, it holds what was measured.
    tokens += max(row.length for row in every)
    if best.rows == len(every):
        # More of them may be faster still.
        tokens = max(tokens, usual.max_tokens)
    limits = BatchLimits(max(tokens // _LEAST_TOKENS, best.rows), tokens, padded=usual.padded)
    logger.info(
        "measured: batches of %d tokens, %d side by side with %s threads each, %.0f tokens/s",
        tokens, best.lanes, best.threads or "all", best.speed,
    )  # fmt: skip
    return BatchPlan(limits, Parallelism(best.lanes, best.threads, quickest_alone(measured)))


def _row(example: Row[Mapping[str, list[int]]], length: int) -> Row[dict[str, list[int]]]:
    times = -(-length // example.length)
    return Row({name: (values * times)[:length] for name, values in example.inputs.items()}, length, example.key)


def _compute(forward: Callable[[Sequence[Row[Any]]], Any], batch: Sequence[Row[Any]], threads: int | None) -> None:
    if threads is not None:
        use_threads(threads)
    try:
        forward(batch)
    except torch.OutOfMemoryError as error:
        raise MemoryError from error
    if threads is None and torch.cuda.is_available():
        torch.cuda.synchronize()

"""Calibration of batch size, workers and threads of an encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from runners.engines.calibration.choice import Measurement, choose_measurement, choose_threads_alone
from runners.engines.calibration.stopwatch import Stopwatch, watch_cpu_share
from runners.engines.rows import BatchLimits, Parallelism, Row
from runners.kernels.cores import count_available_cores, set_thread_count
from runners.kernels.fallbacks import Fallbacks, Optimization

logger = logging.getLogger(__name__)

#: Numbers of rows per batch to measure; a GPU needs large batches.
CPU_ROWS, GPU_ROWS = (1, 2, 4, 8, 16, 32), (1, 4, 16, 32, 64, 128, 256)

#: Tokens of the measured rows, repeated in this order: typical requests are short and of different lengths.
_LENGTHS = (40, 24, 64, 16, 48, 32)
#: The same for padded rows, which the scheduler selects by similar length.
_LENGTHS_ALIKE = (40, 36, 44, 38)

#: Assumed minimum tokens per row: a batch of short rows may have more rows than the measured ones.
_MIN_ROW_TOKENS = 8


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Batch limits and parallelism of a model."""

    limits: BatchLimits
    parallelism: Parallelism


@dataclass(frozen=True, slots=True)
class _Case:
    workers: int
    threads: int | None
    rows: int

    @property
    def cost(self) -> int:
        return self.workers * self.rows


def guard_calibration(fallbacks: Fallbacks) -> AbstractContextManager[None]:
    """Return a context in which an error is reported as a failed optimization, and suppressed."""
    return fallbacks.guard(Optimization.CALIBRATION)


def worker_options(threads: int | None, cpus: float | None) -> list[tuple[int, int]]:
    """Return the pairs of workers and threads per worker to measure on a CPU.

    The pairs are one worker per core, and one worker with all cores. Several workers with several threads each are not
    measured: every worker would keep its own thread pool next to that of the first worker, which has all threads for a
    batch that is computed alone, so there would be more threads than cores.

    Args:
        threads: threads of the runner; None for those of its cores.
        cpus: cores that it may use; None for all.
    """
    cores = threads or count_available_cores(cpus)
    return [(cores, 1), (1, cores)] if cores > 1 else [(1, 1)]


def calibrate(
    forward: Callable[[Sequence[Row[Any]]], Any],
    example: Row[Mapping[str, list[int]]],
    usual: BatchPlan,
    *,
    rows: Sequence[int],
    workers: Sequence[tuple[int, int | None]],
    seconds: float,
    longest: int | None,
) -> BatchPlan | None:
    """Measure batches of several sizes, in one worker or in several, and choose a plan.

    Args:
        forward: computes rows of equal key as one batch.
        example: row whose inputs are repeated to make rows of the measured lengths.
        usual: default plan, used if nothing is measured.
        rows: numbers of rows per batch to measure, ascending; they include that of `usual`.
        workers: pairs of workers and threads per worker to measure, those of `usual` first. None for the threads keeps
            the current number.
        seconds: time limit of the calibration.
        longest: maximum number of tokens per row; None if the model has no limit.

    Returns:
        None if other processes kept the CPU busy, or if a batch takes too long to measure several.
    """
    cases = sorted((_Case(*pair, number) for pair in workers for number in rows), key=lambda case: case.cost)
    cores = max(case.workers * case.threads if case.threads else 0 for case in cases) or None
    lengths = _LENGTHS_ALIKE if usual.limits.padded else _LENGTHS
    all_rows = [_make_row(example, min(lengths[i % len(lengths)], longest or max(lengths))) for i in range(rows[-1])]
    stopwatch: Stopwatch[_Case] = Stopwatch(seconds)
    most_workers = max(case.workers for case in cases)
    with ThreadPoolExecutor(most_workers) as others, watch_cpu_share(cores) as share, _restore_threads():

        def compute(case: _Case) -> None:
            batch = all_rows[: case.rows]
            parallel = [others.submit(_compute, forward, batch, case.threads) for _ in range(case.workers - 1)]
            _compute(forward, batch, case.threads)
            for one in parallel:
                one.result()

        stopwatch.measure(cases, compute, lambda case: case.cost)
    if share.too_small:
        logger.info("calibration of batches skipped: other processes keep the CPU busy")
        return None
    by_rows = sorted(stopwatch.best.items(), key=lambda item: item[0].rows)
    tokens = {number: sum(row.length for row in all_rows[:number]) for number in rows}
    measured = {
        case: Measurement(case.workers, case.threads, case.rows, case.workers * tokens[case.rows], took)
        for case, took in by_rows
    }
    default = measured.get(_Case(*workers[0], usual.limits.max_rows))
    if default is None:
        return None
    measurements = list(measured.values())
    return _make_plan(choose_measurement(measurements, default), measurements, all_rows, usual.limits)


@contextmanager
def _restore_threads() -> Iterator[None]:
    """Restore the number of threads after the body, also if it raises."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _make_plan(
    best: Measurement, measured: Sequence[Measurement], all_rows: Sequence[Row[Any]], usual: BatchLimits
) -> BatchPlan:
    lengths = [row.length for row in all_rows[: best.rows]]
    tokens = best.rows * max(lengths) if usual.padded else sum(lengths)
    # A batch ends before the first row that does not fit. Room for one more row keeps it as large as the measured one.
    tokens += max(row.length for row in all_rows)
    if best.rows == len(all_rows):
        # Larger batches were not measured, and may be even faster.
        tokens = max(tokens, usual.max_tokens)
    limits = BatchLimits(max(tokens // _MIN_ROW_TOKENS, best.rows), tokens, padded=usual.padded)
    logger.info(
        "calibrated: batches of %d tokens, %d workers with %s threads each, %.0f tokens/s",
        tokens, best.workers, best.threads or "all", best.speed,
    )  # fmt: skip
    return BatchPlan(limits, Parallelism(best.workers, best.threads, choose_threads_alone(measured)))


def _make_row(example: Row[Mapping[str, list[int]]], length: int) -> Row[dict[str, list[int]]]:
    copies = -(-length // example.length)
    return Row({name: (values * copies)[:length] for name, values in example.inputs.items()}, length, example.key)


def _compute(forward: Callable[[Sequence[Row[Any]]], Any], batch: Sequence[Row[Any]], threads: int | None) -> None:
    if threads is not None:
        set_thread_count(threads)
    try:
        forward(batch)
    except torch.OutOfMemoryError as error:
        raise MemoryError from error
    if threads is None and torch.cuda.is_available():
        torch.cuda.synchronize()

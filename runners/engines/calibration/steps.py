"""Calibration of the sequences per decoding step and of the tokens per prefill chunk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from runners.engines.calibration.choice import Measurement, choose_measurement
from runners.engines.calibration.stopwatch import Stopwatch, watch_cpu_share

logger = logging.getLogger(__name__)

#: Numbers of sequences per decoding step, and of prompt tokens per prefill chunk, to measure.
CPU_ROWS, GPU_ROWS = (1, 4, 8, 16, 32, 64), (1, 8, 32, 64, 128, 256)
CPU_TOKENS, GPU_TOKENS = (16, 32, 64, 128, 256), (128, 256, 512, 1024, 2048, 4096)

#: Maximum seconds per step, because every streaming client waits for it.
_MAX_STEP_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Limits of a step: sequences, and tokens including those of prefill chunks."""

    rows: Annotated[int, Field(ge=1)]
    tokens: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Case:
    """Step to measure: either decoding of `rows` sequences, or a prefill chunk of `tokens`."""

    rows: int = 0
    tokens: int = 0

    @property
    def size(self) -> int:
        """Number of tokens that the step computes."""
        return self.rows or self.tokens


def calibrate_steps(
    compute: Callable[[Case], None],
    usual: StepPlan,
    *,
    rows: Sequence[int],
    tokens: Sequence[int],
    seconds: float,
    cores: int | None,
) -> StepPlan | None:
    """Measure steps of several sizes and choose a plan.

    Args:
        compute: computes one step.
        usual: default plan, used if nothing is measured; its values are among `rows` and `tokens`.
        rows, tokens: numbers to measure, ascending.
        seconds: time limit of the calibration.
        cores: number of cores that compute; None on a GPU.

    Returns:
        None if other processes kept the CPU busy, or if a step takes too long to measure several.
    """
    cases = sorted([*(Case(rows=n) for n in rows), *(Case(tokens=n) for n in tokens)], key=lambda case: case.size)
    stopwatch: Stopwatch[Case] = Stopwatch(seconds)
    with watch_cpu_share(cores) as share:
        stopwatch.measure(cases, compute, lambda case: case.size)
    if share.too_small:
        logger.info("calibration of steps skipped: other processes keep the CPU busy")
        return None
    decode = _choose([case for case in cases if case.rows], usual.rows, stopwatch.best)
    prefill = _choose([case for case in cases if case.tokens], usual.tokens, stopwatch.best)
    if decode is None or prefill is None:
        return None
    logger.info(
        "calibrated: %d sequences per step, %.0f tokens/s; prefill chunks of %d tokens, %.0f tokens/s",
        decode.rows, decode.speed, prefill.rows, prefill.speed,
    )  # fmt: skip
    return StepPlan(decode.rows, prefill.rows)


def _choose(cases: Sequence[Case], usual: int, best: dict[Case, float]) -> Measurement | None:
    measured = [Measurement(1, None, case.size, case.size, best[case]) for case in cases if case in best]
    defaults = [one for one in measured if one.rows == usual]
    if not defaults:
        return None
    short = [one for one in measured if one.rows <= usual or one.seconds <= _MAX_STEP_SECONDS]
    return choose_measurement(short, defaults[0])

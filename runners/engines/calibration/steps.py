"""How many sequences are best written at once, and how much of a prompt is best read between two of their tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from runners.engines.calibration.choice import Measurement, most_worthwhile
from runners.engines.calibration.stopwatch import Stopwatch, own_share

logger = logging.getLogger(__name__)

#: Sequences at once, and tokens of a prompt in a step, that are tried.
CPU_ROWS, GPU_ROWS = (1, 4, 8, 16, 32, 64), (1, 8, 32, 64, 128, 256)
CPU_TOKENS, GPU_TOKENS = (16, 32, 64, 128, 256), (128, 256, 512, 1024, 2048, 4096)

#: Seconds that a step may take: all who read along wait for it.
_LONGEST_STEP = 0.25


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What a step may hold: sequences, and tokens, prompts' pieces included."""

    rows: Annotated[int, Field(ge=1)]
    tokens: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Case:
    """A step of the trial: `rows` sequences that get a token, or a piece of a prompt of `tokens`."""

    rows: int = 0
    tokens: int = 0

    @property
    def size(self) -> int:
        """Tokens that are computed."""
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
    """Compute steps of several sizes and choose.

    Args:
        compute: one step.
        usual: what is done where nothing is measured; is among those to be tried.
        rows, tokens: to be tried; the fewest first.
        seconds: that it may take.
        cores: that compute; None on a GPU.

    Returns:
        None if nothing can be said: others kept the processors busy, or a step takes too long to try several.
    """
    cases = sorted([*(Case(rows=n) for n in rows), *(Case(tokens=n) for n in tokens)], key=lambda case: case.size)
    stopwatch: Stopwatch[Case] = Stopwatch(seconds)
    with own_share(cores) as share:
        stopwatch.measure(cases, compute, lambda case: case.size)
    if share.too_small:
        logger.info("which steps suit this machine was not measured: others keep it busy")
        return None
    writing = _choose([case for case in cases if case.rows], usual.rows, stopwatch.best)
    reading = _choose([case for case in cases if case.tokens], usual.tokens, stopwatch.best)
    if writing is None or reading is None:
        return None
    logger.info(
        "measured: %d sequences at once, %.0f tokens/s; prompts in pieces of %d tokens, %.0f tokens/s",
        writing.rows, writing.speed, reading.rows, reading.speed,
    )  # fmt: skip
    return StepPlan(writing.rows, reading.rows)


def _choose(cases: Sequence[Case], usual: int, best: dict[Case, float]) -> Measurement | None:
    measured = [Measurement(1, None, case.size, case.size, best[case]) for case in cases if case in best]
    before = [one for one in measured if one.rows == usual]
    if not before:
        return None
    short = [one for one in measured if one.rows <= usual or one.seconds <= _LONGEST_STEP]
    return most_worthwhile(short, before[0])

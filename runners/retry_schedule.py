"""Delays between attempts to load a model whose source is unreachable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

#: First and longest delay in seconds.
_FIRST_DELAY, _LONGEST_DELAY = 5.0, 300.0


def retry_delays(draw: Callable[[], float] = random.random) -> Iterator[float]:
    """Yield the seconds before each attempt, doubled each time up to five minutes.

    Each delay varies by up to a quarter, so that runners of the same source do not retry at the same time.

    Args:
        draw: returns a random number from 0 to 1.
    """
    delay = _FIRST_DELAY
    while True:
        yield delay * (0.75 + draw() / 2)
        delay = min(2 * delay, _LONGEST_DELAY)

"""When a model is tried again whose source could not be reached."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

#: Seconds before the first time, and before any later one at most.
_FIRST, _LONGEST = 5.0, 300.0


def pauses(chance: Callable[[], float] = random.random) -> Iterator[float]:
    """Seconds before each try: twice as long each time, up to five minutes.

    A quarter more or less, so that all who wait for the same source do not ask at once.

    Args:
        chance: gives a number from 0 to 1.
    """
    pause = _FIRST
    while True:
        yield pause * (0.75 + chance() / 2)
        pause = min(2 * pause, _LONGEST)

"""What the commands that measure have in common: their options, their messages, and how they end."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from benchmarks.processes import BenchmarkError


def run(measure: Callable[[], None]) -> int:
    """Measure; the exit status. What goes wrong is one message, and being stopped ends all processes."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        measure()
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except (BenchmarkError, ExceptionGroup) as error:
        say(f"Error: {_first(error)}")
        return 1
    return 0


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a number."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return int(text)

    return number


def say(text: str) -> None:
    """Tell whoever waits, beside the results."""
    print(text, file=sys.stderr, flush=True)


def _first(error: BaseException) -> str:
    """What went wrong first, of all that ended together."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, BenchmarkError) else f"{type(error).__name__}: {error}"


def _end(*_: object) -> NoReturn:
    raise KeyboardInterrupt

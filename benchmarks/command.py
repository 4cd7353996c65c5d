"""Common parts of the benchmark commands: options, messages and exit statuses."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from benchmarks.processes import BenchmarkError


def run(measure: Callable[[], None]) -> int:
    """Run a measurement and return the exit status.

    An error is one message, and an interrupt ends all processes.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        measure()
    except KeyboardInterrupt:
        print_message("stopped")
        return 130
    except (BenchmarkError, ExceptionGroup) as error:
        print_message(f"Error: {_first(error)}")
        return 1
    return 0


def at_least(least: int) -> Callable[[str], int]:
    """Return the type of an option that is a number of at least the minimum."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return int(text)

    return number


def print_message(text: str) -> None:
    """Print a message to standard error, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def _first(error: BaseException) -> str:
    """Return the first error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, BenchmarkError) else f"{type(error).__name__}: {error}"


def _end(*_: object) -> NoReturn:
    raise KeyboardInterrupt

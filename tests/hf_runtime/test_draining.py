"""Promise: the first stop signal waits for running requests, within a time limit."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from hf_runtime.draining import Drain

Scenario = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


def _with_signals(scenario: Scenario) -> None:
    """Run a scenario with an event that is set when a stop signal is passed on."""

    async def run() -> None:
        loop, passed_on = asyncio.get_running_loop(), asyncio.Event()
        before = signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(passed_on.set))
        try:
            async with asyncio.timeout(30):
                await scenario(passed_on)
        finally:
            signal.signal(signal.SIGTERM, before)

    asyncio.run(run())


def test_the_signal_waits_for_running_requests() -> None:
    async def scenario(passed_on: asyncio.Event) -> None:
        drain = Drain()
        drain.hold_signals()
        with drain.count_work():
            with drain.count_work():
                signal.raise_signal(signal.SIGTERM)
                assert drain.stopping
            for _ in range(100):
                await asyncio.sleep(0)
            assert not passed_on.is_set()
        await passed_on.wait()

    _with_signals(scenario)


def test_without_running_requests_the_signal_is_passed_on_immediately() -> None:
    async def scenario(passed_on: asyncio.Event) -> None:
        Drain().hold_signals()
        signal.raise_signal(signal.SIGTERM)
        await passed_on.wait()

    _with_signals(scenario)


def test_requests_that_exceed_the_time_limit_are_abandoned() -> None:
    async def scenario(passed_on: asyncio.Event) -> None:
        is_cancelled = asyncio.Event()
        drain = Drain(0.01, is_cancelled.set)
        drain.hold_signals()
        with drain.count_work():
            signal.raise_signal(signal.SIGTERM)
            await is_cancelled.wait()
            assert not passed_on.is_set()
        await passed_on.wait()

    _with_signals(scenario)


def test_a_second_signal_stops_immediately() -> None:
    async def scenario(passed_on: asyncio.Event) -> None:
        drain = Drain()
        drain.hold_signals()
        with drain.count_work():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            await passed_on.wait()

    _with_signals(scenario)

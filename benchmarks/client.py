"""Latencies and throughput of the server's streams, measured by one light client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import aiohttp

from benchmarks.processes import MODEL, BenchmarkError
from benchmarks.prompts import Prompts, Request

#: Words in the prompt of a newcomer, and the random seconds before each, so that it arrives at any moment of a step.
_NEWCOMER_WORDS = 48
_WAITS = (0.31, 0.23, 0.37, 0.29, 0.41)

#: Words of about 1,500 tokens.
_LONG_WORDS = 1320

#: Streams that run in parallel with a measurement: words in the prompt of each, new tokens (they are cancelled before
#: their end), and the deltas from which the usual pace is measured.
_RUNNING_WORDS, _ENDLESS, _PACE = 12, 1500, 24


class Stream:
    """One request while it is answered.

    Attributes:
        sent, ended: times in seconds; `ended` is 0 while it runs.
        arrivals: arrival time of each delta. A delta is one token, or several if they are one character.
        text: the answer.
        last: the last delta, with the counts of tokens.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.sent = self.ended = 0.0
        self.arrivals: list[float] = []
        self.text = ""
        self.last: dict[str, Any] = {}
        self._goal = 0
        self._reached = asyncio.Event()

    @property
    def first_token(self) -> float:
        """Seconds from sending to the first delta."""
        return self.arrivals[0] - self.sent

    @property
    def pauses(self) -> list[tuple[float, float]]:
        """Times between consecutive deltas."""
        return list(pairwise(self.arrivals))

    async def reach(self, pieces: int) -> None:
        """Wait until that many deltas have arrived."""
        self._goal = pieces
        self._reached.clear()
        if len(self.arrivals) < pieces:
            await self._reached.wait()

    async def follow(self, session: aiohttp.ClientSession) -> None:
        """Send the request and read its answer to the end.

        Raises:
            BenchmarkError: it is refused, fails, or does not have exactly the requested number of tokens.
        """
        lines = []
        parameters = {"stream": True, "max_new_tokens": self.request.new_tokens, "ignore_eos": True}
        self.sent = perf_counter()
        body = {"instances": [self.request.prompt], "parameters": parameters}
        async with session.post(f"/v1/models/{MODEL}:predict", json=body) as response:
            if response.status != 200:
                raise BenchmarkError(f"the server answered {response.status}: {await response.text()}")
            async for line in response.content:
                self.arrivals.append(perf_counter())
                lines.append(line)
                if len(lines) == self._goal:
                    self._reached.set()
        self.ended = perf_counter()
        pieces = [json.loads(line) for line in lines]
        self.text = "".join(piece["generated_text"] for piece in pieces)
        self.last = pieces[-1]
        if self.last.get("generated_tokens") != self.request.new_tokens:
            raise BenchmarkError(f"{self.request.new_tokens} tokens were to be written, and the end was {self.last}")
        if self.last["cached_tokens"]:
            raise BenchmarkError("the server has read a prompt before, and no one asked it to")


async def burst(url: str, requests: Sequence[Request]) -> tuple[dict[str, float], list[str]]:
    """Send all requests in parallel; return tokens/s, waiting times (ms) and the answers."""
    streams = [Stream(request) for request in requests]
    async with _session(url) as session:
        await _gather(stream.follow(session) for stream in streams)
    seconds = max(stream.ended for stream in streams) - min(stream.sent for stream in streams)
    first = [stream.first_token for stream in streams]
    pauses = [later - earlier for stream in streams for earlier, later in stream.pauses]
    tokens = sum(stream.last["generated_tokens"] for stream in streams)
    figures = {
        "server_tokens_per_second": tokens / seconds,
        "first_token_p50_ms": 1000 * median(first),
        "first_token_max_ms": 1000 * max(first),
        "between_tokens_p50_ms": 1000 * median(pauses),
        "between_tokens_p99_ms": 1000 * _percentile(pauses, 0.99),
        "tokens_per_piece": tokens / sum(len(stream.arrivals) for stream in streams),
    }
    return figures, [stream.text for stream in streams]


async def newcomers(url: str, prompts: Prompts, others: int) -> float:
    """Measure the median time (ms) to a newcomer's first token while other streams run."""
    requests = [Request(prompts.passage(_RUNNING_WORDS), _ENDLESS) for _ in range(others)]
    first = []
    async with _session(url) as session, _running(session, requests) as streams:
        await _gather(stream.reach(1) for stream in streams)
        for wait in _WAITS:
            await asyncio.sleep(wait if others else 0)
            newcomer = Stream(Request(prompts.passage(_NEWCOMER_WORDS), 1))
            await newcomer.follow(session)
            first.append(newcomer.first_token)
        _check_running(streams)
    return 1000 * median(first)


async def long_prompt(url: str, prompts: Prompts, others: int) -> dict[str, float]:
    """Measure the pauses (ms) of running streams when a long prompt joins them."""
    requests = [Request(prompts.passage(_RUNNING_WORDS), _ENDLESS) for _ in range(others)]
    async with _session(url) as session, _running(session, requests) as streams:
        await _gather(stream.reach(1) for stream in streams)
        all_run = perf_counter()
        await _gather(stream.reach(len(stream.arrivals) + _PACE) for stream in streams)
        joining = Stream(Request(prompts.passage(_LONG_WORDS), 4))
        await joining.follow(session)
        _check_running(streams)
    pauses = [pause for stream in streams for pause in stream.pauses]
    read = joining.arrivals[0]
    before = [later - earlier for earlier, later in pauses if earlier >= all_run and later <= joining.sent]
    during = [later - earlier for earlier, later in pauses if later > joining.sent and earlier < read]
    return {
        "long_prompt_tokens": joining.last["prompt_tokens"],
        "long_prompt_first_token_ms": 1000 * joining.first_token,
        "pause_before_ms": 1000 * median(before),
        "pause_during_ms": 1000 * median(during),
        "longest_pause_ms": 1000 * max(during),
        "longest_pause_ratio": max(during) / median(before),
    }


def _session(url: str) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_read=60))


@asynccontextmanager
async def _running(session: aiohttp.ClientSession, requests: Iterable[Request]) -> AsyncIterator[list[Stream]]:
    """Run streams while the body runs, then cancel them."""
    streams = [Stream(request) for request in requests]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stream.follow(session)) for stream in streams]
        yield streams
        for task in tasks:
            task.cancel()


def _check_running(streams: Sequence[Stream]) -> None:
    if any(stream.ended for stream in streams):
        raise BenchmarkError("a stream has ended before what it should have accompanied")


async def _gather(waiting: Iterable[Any]) -> None:
    """Wait for all; cancel all others if one fails."""
    async with asyncio.TaskGroup() as group:
        for one in waiting:
            group.create_task(one)


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]

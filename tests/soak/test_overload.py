"""Promise: at four times its capacity, a server keeps its speed and refuses the rest."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic

import aiohttp
import pytest
from transformers import BertForSequenceClassification

from tests.e2e.server import serving
from tests.soak.memory import watched_memory
from tests.tiny import CORPUS, bert_config, save, wordpiece_tokenizer

_TEXT = " ".join(CORPUS * 4)
_BODY = {"instances": [_TEXT], "parameters": {"truncation": True}}

#: Seconds of each measurement of the server's capacity.
_CALM = 10


@dataclass
class _Outcomes:
    statuses: Counter[int] = field(default_factory=Counter)
    refusals_ms: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    untimed: int = 0


async def _ask(session: aiohttp.ClientSession, url: str, seen: _Outcomes) -> None:
    started = monotonic()
    async with session.post(f"{url}/v1/models/model:predict", json=_BODY) as response:
        await response.read()
        seen.statuses[response.status] += 1
        if response.status != 200:
            seen.refusals_ms.append(1000 * (monotonic() - started))
            seen.untimed += "Retry-After" not in response.headers


async def _served(session: aiohttp.ClientSession, url: str, clients: int, seconds: float) -> float:
    """Measure answers per second for that many clients, each of which waits for its answer."""
    seen, end = _Outcomes(), monotonic() + seconds

    async def client() -> None:
        while monotonic() < end:
            await _ask(session, url, seen)

    await asyncio.gather(*(client() for _ in range(clients)))
    return seen.statuses[200] / seconds


async def _overloaded(session: aiohttp.ClientSession, url: str, rate: float, seconds: float) -> _Outcomes:
    """Send requests at a fixed rate, answered or not; record the outcomes."""
    seen, started, tasks = _Outcomes(), monotonic(), set[asyncio.Task[None]]()

    async def health() -> None:
        while True:
            asked = monotonic()
            async with session.get(f"{url}/livez") as response:
                assert response.status == 200
            seen.health_ms.append(1000 * (monotonic() - asked))
            await asyncio.sleep(0.5)

    probe = asyncio.create_task(health())
    sent = 0
    while (passed := monotonic() - started) < seconds:
        for _ in range(int(rate * passed) - sent):
            task = asyncio.create_task(_ask(session, url, seen))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    probe.cancel()
    with suppress(asyncio.CancelledError):
        await probe
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Save a model whose forward pass costs far more than a request."""
    tokenizer = wordpiece_tokenizer(max_length=128)
    config = bert_config(
        tokenizer, num_labels=2, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536,
        max_position_embeddings=128,
    )  # fmt: skip
    return save(tmp_path, BertForSequenceClassification, config, tokenizer)


def test_a_server_at_four_times_its_capacity_keeps_its_speed(
    folder: Path, request: pytest.FixtureRequest, print_line: Callable[[str], None]
) -> None:
    seconds = request.config.getoption("--overload-seconds")

    async def scenario(url: str) -> tuple[float, _Outcomes, float]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await _served(session, url, 32, 3)
            before = await _served(session, url, 32, _CALM)
            seen = await _overloaded(session, url, 4 * before, seconds)
            return before, seen, await _served(session, url, 32, _CALM)

    with serving(STORAGE_URI=str(folder), MAX_QUEUE_SIZE="64") as server, watched_memory(server) as memory:
        before, seen, after = asyncio.run(scenario(server.url))
    # Relative to the mean, because the machine's own speed changes from minute to minute.
    calm, rate = (before + after) / 2, seen.statuses[200] / seconds
    print_line(
        f"{before:.0f} answers/s before, {after:.0f} after; of {4 * before:.0f} requests/s {rate:.0f} answered; "
        f"{dict(seen.statuses)}; refused after {median(seen.refusals_ms):.0f} ms, at most "
        f"{max(seen.refusals_ms):.0f}; health after {median(seen.health_ms):.0f} ms, at most "
        f"{max(seen.health_ms):.0f}; {memory}"
    )
    assert set(seen.statuses) <= {200, 429, 503}
    assert seen.untimed == 0
    assert memory.growth < 20
    assert rate > 0.9 * calm

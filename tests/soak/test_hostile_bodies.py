"""Promise: excessive windows, bytes and unfinished bodies cause only 503 and no leak."""

from __future__ import annotations

import gzip
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic

import pytest
import requests
import yaml

from tests.e2e.checkpoints import CHECKPOINTS, inference_service
from tests.e2e.server import Server, serving
from tests.soak.memory import watched_memory

_PIPELINE = """
def create_pipeline():
    def answer(text):
        return {"bits": 2**64, "more": [-(2**63) - 1, 10**400], "nan": float("nan")}
    return answer
"""
_TASKS = ("question-answering", "token-classification", "fill-mask", "text-generation")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bodies")
    documents = []
    for task in _TASKS:
        CHECKPOINTS[task](folder / task)
        documents.append(inference_service(task, folder / task, {"TASK": task}))
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "custom_pipeline.py").write_text(_PIPELINE)
    own = {"TASK": "numbers", "TRUST_REMOTE_CODE": "true"}
    documents.append(inference_service("pipeline", folder / "pipeline", own))
    (folder / "models.yaml").write_text(yaml.safe_dump_all(documents))
    limits = {"MAX_BODIES_SIZE": str(32 * 2**20), "BODY_TIMEOUT": "2"}
    with serving(limits, models=len(documents), RUNTIME_CONFIG=str(folder / "models.yaml")) as server:
        yield server


def _windows(server: Server, chance: random.Random) -> requests.Response:
    """Send instances that differ in one token per window, and others of many rows or answers."""
    count, length = chance.choice((1, 16, 256)), chance.randrange(100, 5000)
    path, instance, parameters = chance.choice(
        [
            ("question-answering", {"question": "Who?", "context": "the " * length}, {"doc_stride": 58}),
            ("question-answering", {"question": "Who?", "context": "the " * length}, {"top_k": 10**9}),
            ("token-classification", "the " * length, {"stride": 61, "aggregation_strategy": "simple"}),
            ("fill-mask", "[MASK] " * 60, {"top_k": 10**9}),
            ("text-generation", "the", {"num_return_sequences": 64, "do_sample": True, "max_new_tokens": 2}),
        ]
    )
    body = {"instances": [instance] * count, "parameters": parameters}
    return requests.post(f"{server.url}/v1/models/{path}:predict", json=body, timeout=600)


def _numbers(server: Server, _: random.Random) -> requests.Response:
    """Send values for which a model's answer exceeds 64 bits; the error must come quickly."""
    return requests.post(f"{server.url}/v1/models/pipeline:predict", json={"instances": ["a"]}, timeout=60)


def _large(server: Server, chance: random.Random) -> requests.Response:
    """Send a body of the maximal size or larger, compressed or not, to a model or to none."""
    body = bytes(chance.choice((1_000_000, 15_000_000, 40_000_000)))
    packed = chance.random() < 0.5
    headers = {"Content-Encoding": "gzip"} if packed else {}
    headers |= {"Connection": "close"} if chance.random() < 0.5 else {}
    url = server.url + chance.choice(("/v1/models/text-generation:predict", "/v1/models/none:predict", "/v2/nothing"))
    return requests.post(url, data=gzip.compress(body, 1) if packed else body, headers=headers, timeout=60)


def _unfinished(server: Server, chance: random.Random) -> None:
    """Send many bodies in parallel that are never finished."""
    head = b"POST /v1/models/text-generation:predict HTTP/1.1\r\nHost: server\r\nContent-Length: 16000000\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(8)]
    for connection in connections:
        with suppress(OSError):
            connection.sendall(head + bytes(chance.randrange(15_000_000)))
    for connection in connections:
        connection.close()


def test_windows_numbers_and_bodies_of_all_sizes_leak_no_memory(
    server: Server, request: pytest.FixtureRequest, print_line: Callable[[str], None]
) -> None:
    end = monotonic() + 60 * request.config.getoption("--fuzz-minutes") / 5
    statuses: Counter[str] = Counter()
    faults: list[str] = []

    def client(seed: int) -> None:
        chance = random.Random(seed)
        while monotonic() < end:
            ask = chance.choice((_windows, _windows, _numbers, _large, _unfinished))
            try:
                response = ask(server, chance)
            except requests.RequestException as error:
                faults.append(f"{ask.__name__}: {error!r}")
                continue
            if response is None:
                continue
            statuses[f"{ask.__name__} {response.status_code}"] += 1
            later = response.status_code in (429, 503)
            if ask is _numbers and response.status_code == 500 and "64 bits" in response.text:
                continue
            if (later and "Retry-After" not in response.headers) or (response.status_code >= 500 and not later):
                faults.append(f"{ask.__name__}: {response.status_code} {response.text[:300]}")

    with watched_memory(server) as memory:
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print_line(f"{statuses.total()} requests: {dict(sorted(statuses.items()))}; {memory}")
    assert faults == []
    assert memory.growth < 100
    assert not server.count("Traceback")

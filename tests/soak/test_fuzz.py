"""Promise: no request of any kind is answered with a 5xx, kills a process or leaks memory."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest
import requests

from tests.e2e.checkpoints import CHECKPOINTS, write_all
from tests.e2e.server import Server, serving
from tests.soak.memory import watched_memory

_CONFIG = Path(__file__).parents[1] / "e2e" / "schemathesis.toml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(models=len(CHECKPOINTS), RUNTIME_CONFIG=str(write_all(tmp_path_factory.mktemp("fuzz")))) as server:
        yield server


def _hostile(chance: random.Random) -> bytes:
    """Draw a body that no client intends.

    It mixes bytes, depth, size of numbers and halves of characters.
    """
    nested = chance.randrange(1, 20_000)
    number = b"9" * chance.randrange(1, 5000)
    values = [
        chance.randbytes(chance.randrange(200)),
        b"[" * nested + b"]" * nested,
        b'{"a":' * nested + b"1" + b"}" * nested,
        number, b"-" + number, b"1e" + number, b"0." + number, b"1e-400", b"NaN", b"-Infinity",
        rb'"\ud800"', rb'"\udc00\ud800"', rb'"\u0000"', b'"\xed\xa0\x80"', b'"' + "🙂".encode()[:3] + b'"',
        b'"' + b"a" * chance.randrange(1, 200_000) + b'"',
        b"null", b"true", b'""', b"[]", b"{}",
    ]  # fmt: skip
    value, other = chance.choice(values), chance.choice(values)
    return chance.choice(
        [
            value,
            b'{"instances": [' + value + b"]}",
            b'{"instances": [' + value + b"," + other + b"]}",
            b'{"instances": ["text"], "parameters": {"max_new_tokens": ' + value + b', "top_k": ' + other + b"}}",
            b'{"instances": ["text"], "parameters": ' + value + b"}",
            b'{"instances": [{"question": ' + value + b', "context": ' + other + b"}]}",
            b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [' + value + b'], "data": [' + other + b"]}]}",
            b'{"text_input": ' + value + b', "parameters": ' + other + b"}",
            b'{"model": "text-generation", "prompt": ' + value + b', "max_tokens": ' + other + b"}",
            b'{"model": ' + value + b', "input": ' + other + b"}",
            b'{"model": "text-generation", "messages": [{"role": "user", "content": ' + value + b"}]}",
        ]
    )


def _paths() -> list[str]:
    paths = [f"/v1/models/{task}:predict" for task in CHECKPOINTS]
    paths += [f"/v2/models/{task}/infer" for task in CHECKPOINTS]
    paths += ["/v2/models/text-generation/generate", "/v2/models/text-generation/generate_stream"]
    paths += [f"/openai/v1/{name}" for name in ("completions", "chat/completions", "embeddings")]
    return [*paths, "/v2/repository/index", "/v2/repository/models/text-generation/unload"]


def test_random_bytes_depth_numbers_and_surrogates_are_4xx(
    server: Server, request: pytest.FixtureRequest, print_line: Callable[[str], None]
) -> None:
    end = monotonic() + 60 * request.config.getoption("--fuzz-minutes") / 2
    statuses: Counter[int] = Counter()
    faults: list[str] = []

    def client(seed: int) -> None:
        chance, session, paths = random.Random(seed), requests.Session(), _paths()
        while monotonic() < end:
            path, body = chance.choice(paths), _hostile(chance)
            response = session.post(server.url + path, data=body, timeout=60)
            statuses[response.status_code] += 1
            if response.status_code >= 500:
                faults.append(f"{path} {body[:300]!r}: {response.status_code} {response.text[:300]}")

    with watched_memory(server) as memory:
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print_line(f"{statuses.total()} requests: {dict(sorted(statuses.items()))}; {memory}")
    assert faults == []
    assert memory.growth < 50
    assert not server.count("Traceback")


def test_all_variations_of_the_openapi_document_are_answered_as_described(
    server: Server, request: pytest.FixtureRequest, tmp_path: Path, print_line: Callable[[str], None]
) -> None:
    minutes = request.config.getoption("--fuzz-minutes") / 2
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIG), "run"]
    options = ["--max-examples", "100000", "--max-time", f"{60 * minutes:.0f}", "--continue-on-failure", "--no-color"]
    with watched_memory(server) as memory:
        run = subprocess.run(
            [*command, f"{server.url}/openapi.json", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    summary = [line for line in run.stdout.splitlines() if "generated" in line or "passed" in line]
    print_line(f"{'; '.join(summary[-3:])}; {memory}")
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    assert memory.growth < 50

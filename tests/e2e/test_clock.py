"""Promise: requests stay on time and none waits for ever while the system clock jumps."""

from __future__ import annotations

import json
from pathlib import Path

import requests

from tests.e2e.server import serving
from tests.tiny import llama_model

#: Python runs this first: from the 50th call in a process on, the wall clock is randomly a day late or a day early.
#: Strict alternation would give the same time to requests that read the clock twice. The process that starts and ends
#: the others is excluded: its tornado reads the clock twice for one delay and would now and then wait for two days.
_JUMPING = """
import itertools
import random
import sys
import time

true, calls, chance = time.time, itertools.count(), random.Random(0)

def jumped():
    return 0 if next(calls) < 50 else chance.choice((-86_400, 86_400))

if "_bentoml_impl.worker.service" in sys.orig_argv:
    time.time = lambda: true() + jumped()
    time.time_ns = lambda: int(1e9 * time.time())
"""


def test_requests_and_streams_are_answered_while_the_clock_jumps_by_days(tmp_path: Path) -> None:
    llama_model(tmp_path / "model", context=4096)
    (tmp_path / "sitecustomize.py").write_text(_JUMPING)
    variables = {"PYTHONPATH": str(tmp_path), "REQUEST_TIMEOUT": "30", "ACCESS_LOG": "true"}
    with serving(variables, STORAGE_URI=str(tmp_path / "model"), TASK="text-generation") as server:
        before = [process.pid for process in (*server.entry_processes(), *server.runner_processes())]
        url = f"{server.url}/v1/models/model:predict"
        parameters = {"max_new_tokens": 20, "ignore_eos": True}
        answers = [
            requests.post(url, json={"instances": ["Paris"], "parameters": parameters}, timeout=60) for _ in range(40)
        ]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        body = {"instances": ["Paris"], "parameters": {**parameters, "max_new_tokens": 500, "stream": True}}
        lines = requests.post(url, json=body, stream=True, timeout=60).iter_lines()
        assert "error" not in [json.loads(line) for line in lines if line][-1]
        prompt = {"model": "model", "prompt": "Paris", "max_tokens": 1}
        told = [requests.post(f"{server.url}/openai/v1/completions", json=prompt, timeout=60).json() for _ in range(24)]
        assert max(answer["created"] for answer in told) - min(answer["created"] for answer in told) > 80_000
        for path in ("/livez", "/readyz", "/metrics"):
            assert requests.get(server.url + path, timeout=60).status_code == 200
        assert before == [process.pid for process in (*server.entry_processes(), *server.runner_processes())]
        server.terminate()
        server.wait_ended()

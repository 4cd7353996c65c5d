"""Promise: mixed tasks, streams and leaving clients run for days; answers stay right.

No memory leaks.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import requests

from tests.e2e.checkpoints import CHECKPOINTS, write_all
from tests.e2e.server import Server, serving
from tests.soak.memory import watched_memory
from tests.tiny import CORPUS

_CLIENTS = 8


def _instances(task: str) -> list[Any]:
    texts = [text[:60] for text in CORPUS]
    match task:
        case "question-answering":
            return [{"question": "Who?", "context": text} for text in texts]
        case "fill-mask":
            return [f"{text[:30]} [MASK]" for text in texts]
        case _:
            return texts


def _parameters(task: str) -> dict[str, Any]:
    return {"max_new_tokens": 8} if task.endswith("generation") else {}


class _Mixed:
    """Clients of all tasks that compare their answers with those of an idle server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.right = {
            task: {json.dumps(instance): self._predict(task, instance) for instance in _instances(task)}
            for task in CHECKPOINTS
        }

    def _post(self, task: str, instance: Any, **more: Any) -> requests.Response:
        body = {"instances": [instance], "parameters": {**_parameters(task), **more}}
        url = f"{self.server.url}/v1/models/{task}:predict"
        return requests.post(url, json=body, stream=bool(more), timeout=60)

    def _predict(self, task: str, instance: Any) -> Any:
        response = self._post(task, instance)
        assert response.status_code == 200, response.text
        return response.json()["predictions"][0]

    def client(self, seed: int, end: float) -> None:
        """Send requests until the time has come."""
        chance = random.Random(seed)
        while monotonic() < end:
            task = chance.choice(list(CHECKPOINTS))
            instance = chance.choice(_instances(task))
            kind = chance.choice(("whole", "whole", "stream", "leave") if task == "text-generation" else ("whole",))
            try:
                getattr(self, f"_{kind}")(task, instance)
                self.counts[f"{task}, {kind}"] += 1
            except Exception as error:
                self.faults.append(f"{task}, {kind}: {error!r}")

    def _whole(self, task: str, instance: Any) -> None:
        answer, right = self._predict(task, instance), self.right[task][json.dumps(instance)]
        assert _rounded(answer) == _rounded(right), (answer, right)

    def _stream(self, task: str, instance: Any) -> None:
        lines = [json.loads(line) for line in self._post(task, instance, stream=True).iter_lines() if line]
        assert lines[-1]["finish_reason"] in ("stop", "length")
        text = "".join(line["generated_text"] for line in lines)
        assert self.right[task][json.dumps(instance)][0]["generated_text"].endswith(text)

    def _leave(self, task: str, instance: Any) -> None:
        response = self._post(task, instance, stream=True, max_new_tokens=100, ignore_eos=True)
        next(self._lines(response))
        response.close()

    def _lines(self, response: requests.Response) -> Iterator[bytes]:
        assert response.status_code == 200, response.text
        yield from response.iter_lines()


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 3)
        case list():
            return [_rounded(each) for each in value]
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case _:
            return value


def test_mixed_tasks_streams_and_disconnects_leak_no_memory(
    tmp_path: Path, request: pytest.FixtureRequest, print_line: Callable[[str], None]
) -> None:
    minutes = request.config.getoption("--soak-minutes")
    with serving(models=len(CHECKPOINTS), RUNTIME_CONFIG=str(write_all(tmp_path))) as server:
        mixed, end = _Mixed(server), monotonic() + 60 * minutes
        with watched_memory(server) as memory:
            threads = [threading.Thread(target=mixed.client, args=(seed, end)) for seed in range(_CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        print_line(f"{mixed.counts.total()} answers in {minutes:g} minutes, {len(mixed.faults)} faults; {memory}")
        print_line(", ".join(f"{number} {what}" for what, number in sorted(mixed.counts.items())))
        assert mixed.faults == []
        assert memory.growth < 30
        assert not server.count("Traceback")

"""Processes of ours that are measured: workers without a server, and the server."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from time import monotonic, sleep
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.processes import MODEL, Child, free_port
from runners.kernels.cores import THREAD_ENVIRONMENT

_START_TIMEOUT = 300


class Worker(Child):
    """Process that computes without a server, controlled by lines of JSON.

    Its module is `benchmarks.worker` by default.

    Attributes:
        facts: its first line, about itself and its model.
    """

    def __init__(self, kind: str, model: str, threads: int, module: str = "benchmarks.worker") -> None:
        command = [sys.executable, "-m", module, kind, model, str(threads)]
        super().__init__(kind, command, environment=THREAD_ENVIRONMENT, pipes=True)
        self.facts: dict[str, Any] = {}

    def wait_ready(self) -> None:
        self.facts = self._read()

    def ask(self, question: Any) -> dict[str, Any]:
        """Send a command and return the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self.failed("has ended") from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self.failed("has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Server(Child):
    """`bentoml serve` of this repository, started as users start it."""

    def __init__(self, model: str, threads: int) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            **THREAD_ENVIRONMENT,
            "BENTOML_DO_NOT_TRACK": "true",
            "PYTHONUNBUFFERED": "1",
            "MODEL_NAME": MODEL,
            "STORAGE_URI": model,
            "TASK": "text-generation",
            "TORCH_DTYPE": "float32",
            "TORCH_NUM_THREADS": str(threads),
        }
        command = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
        super().__init__("server", command, environment=environment)

    def wait_ready(self) -> None:
        end = monotonic() + _START_TIMEOUT
        while monotonic() < end and self._process.poll() is None and "is not served" not in self.log():
            with suppress(URLError, OSError), urlopen(f"{self.url}/readyz", timeout=5):  # noqa: S310  # our own
                return
            sleep(0.2)
        raise self.failed("did not start")

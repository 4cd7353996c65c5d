"""A server that is measured, ours or a peer, from its start to its end."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import requests

from benchmarks.peers.peer import Peer
from benchmarks.processes import IDLE, ROOT, BenchmarkError, Child, free_port, watched
from benchmarks.serving.ours import Ours
from benchmarks.serving.workloads import NEW_TOKENS, Workload

_START_TIMEOUT, _ANSWER_TIMEOUT = 300, 120

#: A server is waited for so many seconds after its last request: it may still compute what nobody waits for.
_REST_TIMEOUT = 30

#: Requests at a time when answers are compared.
_AT_ONCE = 8

#: Folders before the name of a file, which say nothing on another machine.
_FOLDERS = re.compile(r"(?<![\w.:/-])/(?:[\w.@+-]+/)+(?=[\w.@+-])")


class TargetServer(Child):
    """The server of one target for one workload.

    Attributes:
        url: its address.
        path: where requests are posted.
        shown: its command line, without the paths of this machine.
        start_seconds: from its start until it was ready.
        rest_cores: what it computes while nobody asks.
    """

    def __init__(self, target: Peer, workload: Workload, model: Path, threads: int) -> None:
        self.target, self.workload = target, workload
        self._folder = tempfile.TemporaryDirectory()
        port = free_port()
        self.url, self.path = f"http://127.0.0.1:{port}", target.path(workload.name)
        command = target.command(workload.name, model, port, threads, Path(self._folder.name))
        self.shown = shown(command, port)
        self.start_seconds = self.rest_cores = 0.0
        self._started = monotonic()
        super().__init__(
            target.name,
            command,
            environment=target.environment(threads),
            folder=target.root if isinstance(target, Ours) else Path(self._folder.name),
            lasting=isinstance(target, Ours),
        )

    def __exit__(self, *what: object) -> None:
        super().__exit__(*what)
        self._folder.cleanup()

    def wait_ready(self) -> None:
        ready = self.url + self.target.ready_path(self.workload.name)
        end = self._started + _START_TIMEOUT
        while monotonic() < end and not self.ended and "is not served" not in self.log():
            with suppress(requests.RequestException):
                if requests.get(ready, timeout=5).status_code == 200:
                    self.start_seconds = monotonic() - self._started
                    return
            sleep(0.1)
        raise self.failed("did not start")

    def resume(self) -> None:
        super().resume()
        # Deadlines have passed meanwhile; what was connected within it may have to be connected anew.
        ready = self.url + self.target.ready_path(self.workload.name)
        end = monotonic() + _REST_TIMEOUT
        sleep(0.5)
        while monotonic() < end and not self.ended:
            with suppress(requests.RequestException):
                if requests.get(ready, timeout=5).status_code == 200:
                    return
            sleep(0.1)

    def bodies(self, texts: Sequence[str]) -> list[str]:
        """A request of each text."""
        return [json.dumps(self.target.body(self.workload.name, text, NEW_TOKENS)) for text in texts]

    def answers(self, texts: Sequence[str]) -> list[Any]:
        """What it answers, as `Peer.check` puts it.

        Raises:
            BenchmarkError: a request fails, or an answer has not as many tokens as were asked for.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._answer, self.bodies(texts)))

    def _answer(self, body: str) -> Any:
        headers = {"Content-Type": "application/json"}
        try:
            response = requests.post(self.url + self.path, body.encode(), headers=headers, timeout=_ANSWER_TIMEOUT)
            if response.status_code != 200:
                raise BenchmarkError(f"{self.name}: answered {response.status_code}: {response.text[:200]}")
            answer = self.target.check(self.workload.name, response.json())
        except (requests.RequestException, ValueError) as error:
            raise BenchmarkError(f"{self.name}: {error}") from None
        if self.workload.generates and answer[1] not in (None, NEW_TOKENS):
            raise BenchmarkError(f"{self.name}: has written {answer[1]} tokens, not {NEW_TOKENS}")
        return answer

    def rest(self) -> float:
        """Block until it computes no more than it does while nobody asks, or too long; the cores that it still uses."""
        end = monotonic() + _REST_TIMEOUT
        while True:
            with watched([self]) as watch:
                sleep(0.3)
            if watch.idle_cores < max(IDLE, 1.5 * self.rest_cores) or monotonic() > end:
                return watch.idle_cores

    def memory(self) -> int:
        """Bytes of all its processes; what several share is counted once."""
        size = 0
        for member in self.members():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                size += member.memory_full_info().pss
        return size

    def gpu_memory_mib(self) -> int:
        """MiB of GPU memory that its processes hold, as the driver counts them."""
        command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
        rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        members = {member.pid for member in self.members()}
        used = [row.split(",") for row in rows]
        return sum(int(memory) for pid, memory in used if int(pid) in members)


def shown(command: Sequence[str], port: int) -> str:
    """A command line for people, without the paths of this machine."""
    line = " ".join("PORT" if part == str(port) else part for part in command)
    return re.sub(r"\bpython3(\.\d+)?\b", "python", without_folders(line))


def without_folders(text: str) -> str:
    """Text without the paths of this machine: relative ones, or names of files alone."""
    return _FOLDERS.sub("", text.replace(f"{ROOT}/.venv/bin/", "").replace(f"{ROOT}/", ""))

"""A server that is measured, ours or a peer's, from its start to its end."""

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

#: Seconds to wait for a server after its last request, because it may still compute abandoned requests.
_REST_TIMEOUT = 30

#: Parallel requests when answers are compared.
_AT_ONCE = 8

#: Folders before the name of a file, which have no meaning on another machine.
_FOLDERS = re.compile(r"(?<![\w.:/-])/(?:[\w.@+-]+/)+(?=[\w.@+-])")


class TargetServer(Child):
    """Server of one target for one workload.

    Attributes:
        url: its address.
        path: path of the requests.
        shown: its command line, without the paths of this machine.
        start_seconds: seconds from its start until it was ready.
        rest_cores: cores that it uses without requests.
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
        # Deadlines have passed meanwhile, and its internal connections may have to be renewed.
        ready = self.url + self.target.ready_path(self.workload.name)
        end = monotonic() + _REST_TIMEOUT
        sleep(0.5)
        while monotonic() < end and not self.ended:
            with suppress(requests.RequestException):
                if requests.get(ready, timeout=5).status_code == 200:
                    return
            sleep(0.1)

    def bodies(self, texts: Sequence[str]) -> list[str]:
        """Return a request of each text."""
        return [json.dumps(self.target.body(self.workload.name, text, NEW_TOKENS)) for text in texts]

    def answers(self, texts: Sequence[str]) -> list[Any]:
        """Return the server's answers in the form of `Peer.check`.

        Raises:
            BenchmarkError: a request fails, or an answer does not have the requested number of tokens.
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
        """Block until it uses no more CPU than without requests; return the cores that it uses.

        It gives up after a time limit.
        """
        end = monotonic() + _REST_TIMEOUT
        while True:
            with watched([self]) as watch:
                sleep(0.3)
            if watch.idle_cores < max(IDLE, 1.5 * self.rest_cores) or monotonic() > end:
                return watch.idle_cores

    def memory(self) -> int:
        """Return the bytes of all its processes; shared memory is counted once."""
        size = 0
        for member in self.members():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                size += member.memory_full_info().pss
        return size

    def gpu_memory_mib(self) -> int:
        """Return the MiB of GPU memory of its processes, as the driver counts them."""
        command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
        rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        members = {member.pid for member in self.members()}
        used = [row.split(",") for row in rows]
        return sum(int(memory) for pid, memory in used if int(pid) in members)


def shown(command: Sequence[str], port: int) -> str:
    """Format a command line for people, without the paths of this machine."""
    line = " ".join("PORT" if part == str(port) else part for part in command)
    return re.sub(r"\bpython3(\.\d+)?\b", "python", without_folders(line))


def without_folders(text: str) -> str:
    """Replace the paths of this machine by relative ones, or by names of files."""
    return _FOLDERS.sub("", text.replace(f"{ROOT}/.venv/bin/", "").replace(f"{ROOT}/", ""))

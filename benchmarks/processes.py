"""What is measured runs in processes of its own, whose CPU time is watched and which end with this one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self
from urllib.error import URLError
from urllib.request import urlopen

import psutil

ROOT = Path(__file__).parents[1]

#: The name of the model in the server's URLs.
MODEL = "benchmark"

#: Of the caller's environment; its settings must not reach what is measured.
_KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN",
)  # fmt: skip

#: As runners/service.py sets it, so that all are computed under the same conditions.
_THREADS = {"GOMP_SPINCOUNT": "1000", "TOKENIZERS_PARALLELISM": "false"}

#: Share of a core that a process may take while it waits.
IDLE = 0.05

_START_TIMEOUT = 300


class BenchmarkError(Exception):
    """A measurement is not possible or not what it should be; the message says why."""


class Child(ABC):
    """A subprocess with its descendants; leaving the context ends all of them."""

    def __init__(self, name: str, arguments: Sequence[str], *, pipes: bool = False, **environment: str) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with this object
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**{key: os.environ[key] for key in _KEPT if key in os.environ}, **_THREADS, **environment},
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else self._log,
            stderr=self._log,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, who then end it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with _undisturbed():
            if self._process.poll() is None:
                self._process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @abstractmethod
    def wait_ready(self) -> None:
        """Block until it has loaded its model.

        Raises:
            BenchmarkError: it has ended or takes too long; with its log.
        """

    def log(self) -> str:
        """What it has printed."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def failed(self, what: str) -> BenchmarkError:
        """The error to raise, with the end of the log."""
        return BenchmarkError("\n".join([f"{self.name}: {what}", *self.log().splitlines()[-30:]]))

    def cpu_seconds(self) -> dict[int, float]:
        """CPU time of each of its processes so far."""
        seconds = {}
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            for member in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = member.cpu_times()
                    seconds[member.pid] = times.user + times.system
        return seconds

    def wait_idle(self, timeout: float = 30) -> None:
        """Block until it uses no CPU."""
        end = monotonic() + timeout
        while monotonic() < end:
            with watched([self]) as watch:
                sleep(0.5)
            if watch.idle_cores < IDLE:
                return
        raise self.failed(f"is busy {timeout:g} s after its last request")


class Worker(Child):
    """`benchmarks.worker`: computes bursts without a server.

    Attributes:
        facts: what it says of itself and its model.
    """

    def __init__(self, kind: str, model: str, threads: int) -> None:
        super().__init__(kind, ["benchmarks.worker", kind, model, str(threads)], pipes=True)
        self.facts: dict[str, Any] = {}

    def wait_ready(self) -> None:
        self.facts = self._read()

    def ask(self, question: Any) -> dict[str, Any]:
        """Have it compute; its answer."""
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
    """The real `bentoml serve` of this repository, as its users start it."""

    def __init__(self, model: str, threads: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(
            "server",
            ["bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)],
            BENTOML_DO_NOT_TRACK="true",
            PYTHONUNBUFFERED="1",
            MODEL_NAME=MODEL,
            STORAGE_URI=model,
            TASK="text-generation",
            TORCH_DTYPE="float32",
            TORCH_NUM_THREADS=str(threads),
        )

    def wait_ready(self) -> None:
        end = monotonic() + _START_TIMEOUT
        while monotonic() < end and self._process.poll() is None and "is not served" not in self.log():
            with suppress(URLError, OSError), urlopen(f"{self.url}/readyz", timeout=5):  # noqa: S310  # our own
                return
            sleep(0.2)
        raise self.failed("did not start")


@dataclass(slots=True)
class Watch:
    """Who computed meanwhile, in cores: those of ours that should have waited, and everybody else on the machine."""

    idle_cores: float = 0.0
    foreign_cores: float = 0.0


@contextmanager
def watched(idle: Sequence[Child], busy: Sequence[Child] = ()) -> Iterator[Watch]:
    """Measure CPU time while the body runs.

    Args:
        idle: processes that are expected to wait.
        busy: the other ones of ours.

    Raises:
        BenchmarkError: one of them has ended meanwhile.
    """
    watch = Watch()
    children = [*idle, *busy]
    started, before, machine = monotonic(), [child.cpu_seconds() for child in children], _machine_seconds()
    yield watch
    wall, after = monotonic() - started, [child.cpu_seconds() for child in children]
    machine = _machine_seconds() - machine
    for child, earlier, later in zip(children, before, after, strict=True):
        if not earlier or earlier.keys() - later.keys():
            raise child.failed("a process has ended")
    used = [sum(later.values()) - sum(earlier.values()) for earlier, later in zip(before, after, strict=True)]
    watch.idle_cores = sum(used[: len(idle)]) / wall
    watch.foreign_cores = max(machine - sum(used), 0.0) / wall


def _machine_seconds() -> float:
    """CPU time of the whole machine but this process."""
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice - own.user - own.system)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not leave processes behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

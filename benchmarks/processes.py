"""Child processes that are measured: their CPU time is watched, and they end with us."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Self

import psutil

ROOT = Path(__file__).parents[1]

#: The name of the model in the server's URLs.
MODEL = "benchmark"

#: Variables of the caller's environment that children get; its settings must not reach them.
_KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN",
)  # fmt: skip

#: Share of a core that a process may use while it waits.
IDLE = 0.05


class BenchmarkError(Exception):
    """A measurement is impossible or wrong; the message gives the reason."""


class Child(ABC):
    """Subprocess with its descendants; leaving the context ends all of them.

    Args:
        name: its name in messages.
        command: its arguments, the program first.
        environment: variables in addition to those from the caller's environment.
        folder: its working folder.
        pipes: True to use its standard input and output; otherwise its output is its log.
        lasting: True if each of its processes stays to the end; one that ends is a failure.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path = ROOT,
        pipes: bool = False,
        lasting: bool = True,
    ) -> None:
        self.name, self.lasting = name, lasting
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with this object
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**{key: os.environ[key] for key in _KEPT if key in os.environ}, **(environment or {})},
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else self._log,
                stderr=self._log,
                text=True,
                start_new_session=True,  # on Ctrl-C we end it ourselves
            )
        except OSError as error:
            raise BenchmarkError(f"{name}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with undisturbed():
            self._signal(signal.SIGCONT)
            members = self.members()
            if self._process.poll() is None:
                self._process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            for member in members:  # also processes that left its group
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            self._process.wait()

    @property
    def ended(self) -> bool:
        """Return True if its first process has ended."""
        return self._process.poll() is not None

    def members(self) -> list[psutil.Process]:
        """List its processes: the first, its descendants, and orphans in its session."""
        found: dict[int, psutil.Process] = {}
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            found = {member.pid: member for member in (process, *process.children(recursive=True))}
        for pid in psutil.pids():
            with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if pid not in found and os.getsid(pid) == self._process.pid:
                    found[pid] = psutil.Process(pid)
        return list(found.values())

    def suspend(self) -> None:
        """Suspend all of its processes, because some compute even without requests."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume all of its processes."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for member in self.members():
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)

    @abstractmethod
    def wait_ready(self) -> None:
        """Block until it has loaded its model.

        Raises:
            BenchmarkError: it has ended or takes too long; with its log.
        """

    def log(self) -> str:
        """Return its output so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def failed(self, what: str) -> BenchmarkError:
        """Build an error that ends with the last lines of the log."""
        return BenchmarkError("\n".join([f"{self.name}: {what}", *self.log().splitlines()[-30:]]))

    def cpu_seconds(self) -> dict[int, float]:
        """Return the CPU time of each of its processes so far."""
        seconds = {}
        for member in self.members():
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


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def used_seconds(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Compute the CPU time between two calls of `cpu_seconds`, without processes that ended."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


@dataclass(slots=True)
class Watch:
    """CPU use in cores: of our processes that should have waited, and of others on the machine."""

    idle_cores: float = 0.0
    foreign_cores: float = 0.0


@contextmanager
def watched(idle: Sequence[Child], busy: Sequence[Child] = ()) -> Iterator[Watch]:
    """Measure CPU time while the body runs.

    Args:
        idle: processes that are expected to wait.
        busy: all other processes of ours.

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
        if not earlier or child.ended or (child.lasting and earlier.keys() - later.keys()):
            raise child.failed("a process has ended")
    used = [used_seconds(earlier, later) for earlier, later in zip(before, after, strict=True)]
    watch.idle_cores = sum(used[: len(idle)]) / wall
    watch.foreign_cores = max(machine - sum(used), 0.0) / wall


def _machine_seconds() -> float:
    """Return the CPU time of all other processes of the machine.

    This process and its ended helpers, such as a load generator, are left out.
    """
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice - sum(own[:4]))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C while the body runs: a second one must not leave processes behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

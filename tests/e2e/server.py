"""`bentoml serve` of this repository as a subprocess whose log the tests can wait for."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import requests

from tests.project import ROOT

#: A Bento to serve instead of this repository, from an empty folder: `make bento-test`.
_BENTO = os.environ.get("TESTED_BENTO")

#: Settings in the environment of the test run must not reach the server.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

#: Log line of a model that is ready, and log line of a model that is ready or has failed.
SERVED = r"\) is served\. Try:"
SETTLED = rf"{SERVED}| is not served: "
#: Messages of asyncio and aiohttp about results that were never retrieved and objects that were not closed.
_NOISE = re.compile(r"exception was never retrieved|Task was destroyed|was never awaited|Unclosed ")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """Running server.

    Attributes:
        url: address, `http://127.0.0.1:port`.
        log: lines that it has printed so far.
    """

    def __init__(
        self,
        environment: dict[str, str],
        arguments: Sequence[str] = (),
        bento: str | None = _BENTO,
        project: Path = ROOT,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log: list[str] = []
        self._news = threading.Condition()
        self._empty = TemporaryDirectory()
        self._process = subprocess.Popen(
            self._command([*([bento] if bento else []), "-p", str(self.port), *arguments]),
            cwd=self._empty.name if bento else project,
            env={
                **{name: os.environ[name] for name in _KEPT if name in os.environ},
                "BENTOML_DO_NOT_TRACK": "true",
                "HF_HUB_OFFLINE": "1",
                "PYTHONUNBUFFERED": "1",
                # Two cores run the server and the tests.
                "TORCH_NUM_THREADS": "1",
                "CALIBRATION_SECONDS": "0",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _command(self, arguments: Sequence[str]) -> Sequence[str]:
        """Return the command that runs `bentoml serve` with these arguments."""
        return [sys.executable, "-m", "bentoml", "serve", *arguments]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.log.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self.log.append("<end of log>")
            self._news.notify_all()

    def wait_for(self, pattern: str, times: int = 1, timeout: float = 120) -> None:
        """Block until the log has `times` lines that match.

        Raises:
            AssertionError: the server ended or took too long; the log is shown.
        """

        def seen() -> bool:
            return self.log[-1:] == ["<end of log>"] or self.count(pattern) >= times

        with self._news:
            self._news.wait_for(seen, timeout)
            assert self.count(pattern) >= times, "\n".join([f"{pattern!r} was not logged:", *self.log])

    def count(self, pattern: str) -> int:
        """Count the log lines that match."""
        return sum(re.search(pattern, line) is not None for line in self.log)

    def wait_until_all_answer(self, status: int) -> None:
        """Block until every entry process answers with that status for the model named `model`.

        Each process learns of a change by itself, within less time than one of these waits.

        Raises:
            AssertionError: one of them still answers with another status.
        """
        for _ in range(100):
            # Each request uses a connection of its own, which any process may accept.
            seen = {requests.get(f"{self.url}/v1/models/model", timeout=60).status_code for _ in range(20)}
            if seen == {status}:
                return
        raise AssertionError(f"not all processes say {status}: {seen}")

    def wait_ended(self, timeout: float = 60) -> int:
        """Block until the server has stopped by itself; return its exit status."""
        status = self._process.wait(timeout)
        self._reader.join(timeout)
        return status

    def runner_processes(self) -> list[psutil.Process]:
        """Return the processes that hold models."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        return [child for child in children if any(part.startswith("runner-") for part in child.cmdline())]

    def entry_processes(self) -> list[psutil.Process]:
        """Return the processes of the entry service."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        return [child for child in children if "HuggingFaceRuntime" in child.cmdline()]

    def terminate(self) -> None:
        """Send the signal with which Kubernetes stops a container."""
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End all of its processes.

        Raises:
            AssertionError: its log reports results that were never retrieved.
        """
        if self._process.poll() is None:
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.join(20)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._empty.cleanup()
        noise = [line for line in self.log if _NOISE.search(line)]
        assert not noise, "\n".join(["something was left behind:", *noise])


@contextmanager
def serving(
    environment: Mapping[str, str] | None = None,
    *,
    models: int = 1,
    until: str = SERVED,
    arguments: Sequence[str] = (),
    bento: str | None = _BENTO,
    project: Path = ROOT,
    **variables: str,
) -> Iterator[Server]:
    """Serve models until all are ready, with the variables of `environment` and of the call.

    With `until=SETTLED`, some of them may have failed instead: a test that asks one fails alone.
    """
    server = Server({**(environment or {}), **variables}, arguments, bento, project)
    try:
        server.wait_for(until, times=models, timeout=120 + 30 * models)
        yield server
    finally:
        server.stop()

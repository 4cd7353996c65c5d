"""Clients that send a request after each answer: wrk with a script of ours."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import BenchmarkError, used_seconds
from benchmarks.serving.server import TargetServer

_SCRIPT = Path(__file__).with_name("load.lua")

#: Additional seconds after which a measurement is stopped, with the answers so far.
_LONGEST = 60

#: Seconds after which wrk abandons a request.
_TIMEOUT = 120


@dataclass(frozen=True, slots=True)
class Load:
    """Answers and errors of all clients, and the server's CPU time.

    Attributes:
        requests_per_second: of the counted rounds, in each of which as many requests are answered as there are
            clients, so that no server gains from leaving long texts to the end; from the last answer before them to
            their own last one.
        p50_ms, p99_ms: latencies of all answers of the run. wrk adds some for clients that a long answer, of more
            than twice the usual time, kept from sending; None if most clients were not answered twice.
        cpu_ms: CPU time of the server per counted request.
        requests: number of counted requests.
        errors: requests that were refused or whose connection broke, in the whole run.
        error: message of the first refusal.
    """

    requests_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_ms: float
    requests: int
    errors: int
    error: str


def check_wrk() -> None:
    """Check that wrk is installed.

    Raises:
        BenchmarkError: it is not.
    """
    if shutil.which("wrk") is None:
        raise BenchmarkError("wrk, which sends the requests, is not installed: apt-get install wrk")


def put_under_load(server: TargetServer, bodies: Sequence[str], connections: int, seconds: float) -> Load:
    """Run that many clients on the server, for that many counted seconds.

    Raises:
        BenchmarkError: it answered no request.
    """
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".jsonl") as file:
        file.write("\n".join(bodies) + "\n")
        file.flush()
        command = [
            "wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{int(seconds) + _LONGEST}s",
            "--timeout", f"{_TIMEOUT}s", "--script", str(_SCRIPT), server.url + server.path,
            "--", file.name, str(connections), str(seconds),
        ]  # fmt: skip
        cpu: dict[str, Mapping[int, float]] = {"start": server.cpu_seconds()}
        told: dict[str, Any] = {}
        with _running(command) as process:
            assert process.stdout is not None
            for event in events(process.stdout):
                if event["event"] == "done":
                    told = event
                    continue
                cpu[event["event"]] = server.cpu_seconds()
                if event["event"] == "end":
                    process.send_signal(signal.SIGINT)
            said = process.stderr.read() if process.stderr is not None else ""
    cpu.setdefault("end", server.cpu_seconds())
    if not told:
        raise BenchmarkError(f"{server.name}: wrk has failed: {(said.strip().splitlines() or ['without a word'])[-1]}")
    return load_of(told, connections, used_seconds(cpu.get("begin", cpu["start"]), cpu["end"]), server.name)


def load_of(told: Mapping[str, Any], connections: int, cpu_seconds: float, name: str) -> Load:
    """Compute the figures of a run from wrk's output.

    Raises:
        BenchmarkError: no request was answered.
    """
    answers, since = told["answers"], told["since"]
    counted = told["counted"] or answers - connections
    if counted <= 0:  # cut off in its first round
        counted, since = answers, told["began"]
    if not answers:
        raise BenchmarkError(f"{name}: no request was answered. {told['refusal']}".rstrip())
    steady = answers >= 2 * connections
    return Load(
        requests_per_second=counted / (told["last"] - since),
        p50_ms=told["p50_ms"] if steady else None,
        p99_ms=told["p99_ms"] if steady else None,
        cpu_ms=1000 * cpu_seconds / counted,
        requests=counted,
        errors=told["refused"] + told["broken"],
        error=told["refusal"],
    )


def events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the script's events among wrk's own lines."""
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run wrk, which ends with the body at the latest."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()

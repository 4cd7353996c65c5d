"""Clients that each ask again as soon as they are answered: wrk, with a script of ours."""

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

#: A measurement ends at last after so many seconds more than it is meant to take, with what has been answered.
_LONGEST = 60

#: After so many seconds wrk gives an answer up.
_TIMEOUT = 120


@dataclass(frozen=True, slots=True)
class Load:
    """What clients saw, and what it cost.

    Attributes:
        requests_per_second: of the rounds that are counted, in each of which as many are answered as there are
            clients, so that nobody is faster for leaving long texts to the end; from the last answer before them to
            their own last one.
        p50_ms, p99_ms: how long all answers of the run took, by wrk, who adds some for clients that an answer of more
            than twice the usual time has kept from asking; None if most clients were not answered twice.
        cpu_ms: CPU time of the server a request, of those that are counted.
        requests: how many were counted.
        errors: requests that were refused or whose connection broke, in the whole run.
        error: what the first refusal said.
    """

    requests_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_ms: float
    requests: int
    errors: int
    error: str


def check_wrk() -> None:
    """See that there is wrk.

    Raises:
        BenchmarkError: there is none.
    """
    if shutil.which("wrk") is None:
        raise BenchmarkError("wrk, which sends the requests, is not installed: apt-get install wrk")


def put_under_load(server: TargetServer, bodies: Sequence[str], connections: int, seconds: float) -> Load:
    """Have so many clients ask the server, for so many seconds that are counted.

    Raises:
        BenchmarkError: it answered nothing.
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
    """What wrk has told at its end, for people.

    Raises:
        BenchmarkError: nothing was answered.
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
    """What the script tells, among what wrk prints itself."""
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """wrk, which ends with the body at the latest."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()

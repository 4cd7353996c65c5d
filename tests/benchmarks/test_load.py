"""Promise: figures from wrk's script do not depend on a run's start or end."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.processes import BenchmarkError
from benchmarks.serving.load import events, load_of

PRINTED = """\
Running 33s test @ http://127.0.0.1:8000/predict
  1 threads and 16 connections
{"event": "begin"}
{"event": "end"}
^C  Thread Stats   Avg      Stdev     Max   +/- Stdev
Requests/sec:     39.06
{"event": "done", "answers": 83, "counted": 64, "began": 10.0, "since": 11.0, "last": 13.0, "refused": 0,\
 "refusal": "", "broken": 0, "p50_ms": 400.0, "p99_ms": 600.0}
"""


def _output(**changes: Any) -> dict[str, Any]:
    return {**list(events(PRINTED.splitlines()))[-1], **changes}


def test_lines_that_wrk_prints_itself_are_ignored() -> None:
    assert [event["event"] for event in events(PRINTED.splitlines())] == ["begin", "end", "done"]


def test_speed_and_cost_are_those_of_the_counted_rounds() -> None:
    load = load_of(_output(), 16, cpu_seconds=3.2, name="a server")
    assert (load.requests_per_second, load.cpu_ms, load.requests, load.errors) == (32.0, 50.0, 64, 0)


def test_a_run_that_is_cut_off_counts_answers_after_its_first_round() -> None:
    load = load_of(_output(answers=26, counted=0), 16, cpu_seconds=1.0, name="a server")
    assert (load.requests, load.requests_per_second) == (10, 5.0)


def test_a_run_that_is_cut_off_in_its_first_round_counts_from_its_start() -> None:
    load = load_of(_output(answers=12, counted=0, since=0.0), 16, cpu_seconds=1.0, name="a server")
    assert (load.requests, load.requests_per_second) == (12, 4.0)


def test_waiting_times_are_left_out_if_there_are_few_answers() -> None:
    load = load_of(_output(answers=30), 16, cpu_seconds=1.0, name="a server")
    assert load.p50_ms is None
    assert load.p99_ms is None


def test_refused_and_broken_requests_are_errors_with_the_first_reason() -> None:
    load = load_of(_output(refused=2, refusal="503: busy", broken=1), 16, cpu_seconds=1.0, name="a server")
    assert (load.errors, load.error) == (3, "503: busy")


def test_a_server_without_answers_fails_with_its_message() -> None:
    told = _output(answers=0, counted=0, since=0.0, last=0.0, refused=9, refusal="500: out of memory")
    with pytest.raises(BenchmarkError, match=r"a server: no request was answered\. 500: out of memory"):
        load_of(told, 16, cpu_seconds=1.0, name="a server")

"""Promise: all servers get the same requests, and reports do not depend on the machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.serving import contest as contest_module
from benchmarks.serving.contest import Contest, reason
from benchmarks.serving.server import shown
from benchmarks.serving.workloads import WORKLOADS

CLASSIFICATION, _, GENERATION = WORKLOADS


def test_texts_have_8_to_64_words_in_equal_shares() -> None:
    lengths = [len(text.split()) for text in CLASSIFICATION.texts(0)]
    assert sorted(lengths[:57]) == list(range(8, 65))
    assert sorted(lengths[57:114]) == list(range(8, 65))


def test_texts_are_the_same_every_time() -> None:
    assert CLASSIFICATION.texts(0) == CLASSIFICATION.texts(3)
    assert GENERATION.texts(3) == GENERATION.texts(3)


def test_no_two_prompts_begin_alike() -> None:
    prompts = [prompt for slot in range(3) for prompt in GENERATION.texts(slot)]
    assert len({tuple(prompt.split()[:2]) for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([f"{ROOT}/.venv/bin/python3.11", "-m", "server", "-p", "4711"], "python -m server -p PORT"),
        ([f"{ROOT}/.venv/peers/x/bin/python", "/tmp/a_b/model"], ".venv/peers/x/bin/python model"),
        (["env", "STORAGE_URI=/tmp/a/model", "run", "--url=http://127.0.0.1:1/v1/x"],
         "env STORAGE_URI=model run --url=http://127.0.0.1:1/v1/x"),
    ],
)  # fmt: skip
def test_command_lines_are_shown_without_paths_of_the_machine(command: list[str], expected: str) -> None:
    assert shown(command, 4711) == expected


def test_the_reason_of_a_failure_is_one_line_with_the_error_of_its_log() -> None:
    error = BenchmarkError(f"it: did not start\nloading\nValueError: {ROOT}/models/x is broken\nbye")
    assert reason(error) == "it: did not start: ValueError: models/x is broken"


def test_a_server_that_answers_no_client_gets_no_more_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def load(_server: Any, _bodies: Any, connections: int, _seconds: float) -> dict[str, float]:
        asked.append(connections)
        if connections > 1:
            raise BenchmarkError("no request was answered")
        return {"requests_per_second": 1.0}

    monkeypatch.setattr(contest_module, "put_under_load", load)
    monkeypatch.setattr(Contest, "_watched", lambda _contest, _busy, measure: measure())
    contest = Contest(GENERATION, Path("model"), threads=1, seconds=1)
    server: Any = SimpleNamespace(
        target=SimpleNamespace(key="slow"), ended=False, bodies=list,
        resume=lambda: None, suspend=lambda: None, rest=lambda: 0.0,
    )  # fmt: skip
    contest.targets["slow"], contest._servers["slow"] = {"name": "slow"}, server
    contest.round(2)
    contest.round(2)
    assert asked == [1, 8, 1]
    failed = {"failed": "no request was answered"}
    assert contest.rounds == [{"slow": {"1": {"requests_per_second": 1.0}, "8": failed, "16": failed}}] * 2

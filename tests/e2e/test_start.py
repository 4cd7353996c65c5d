"""Promise: a start reports a mistake in one readable line and leaves no process behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.e2e.server import SETTLED, Server
from tests.tiny import bert_config, wordpiece_tokenizer


def _start(environment: dict[str, str]) -> tuple[int, list[str]]:
    server = Server(environment)
    try:
        status = server.wait_ended()
    finally:
        server.stop()
    # BentoML logs which file it loads.
    return status, [line for line in server.log if line not in ("", "<end of log>") and "[INFO] [cli]" not in line]


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "STORAGE_URI is not set"),
        ({"STORAGE_URI": "/no/such/folder"}, "/no/such/folder does not exist"),
        ({"STORAGE_URI": "ftp://host/model", "TASK": "fill-mask"}, "'ftp://' is not a known storage scheme"),
        ({"STORAGE_URI": "/tmp", "TASK": "translation"}, "TASK: Input should be 'feature-extraction'"),
        ({"STORAGE_URI": "/tmp", "LOAD_IN_8BIT": "true", "LOAD_IN_4BIT": "true"}, "cannot both be true"),
        ({"STORAGE_URI": "/tmp", "TEMPERATURE": "-1"}, "TEMPERATURE: "),
        ({"STORAGE_URI": "/tmp", "MAX_BODY_SIZE": "0"}, "MAX_BODY_SIZE: "),
        ({"RUNTIME_CONFIG": "/no/such.yaml"}, "/no/such.yaml cannot be read"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(environment: dict[str, str], named: str) -> None:
    status, lines = _start(environment)
    assert status != 0
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert named in lines[0]


def test_a_model_without_a_known_task_stops_the_start_and_lists_the_tasks(tmp_path: Path) -> None:
    bert_config(wordpiece_tokenizer()).save_pretrained(tmp_path)
    status, lines = _start({"STORAGE_URI": str(tmp_path)})
    assert status != 0
    assert len(lines) == 1
    assert "TASK is not set" in lines[0]
    assert "text2text-generation" in lines[0]


def test_a_server_without_a_loadable_model_ends_if_configured(tmp_path: Path) -> None:
    bert_config(wordpiece_tokenizer()).save_pretrained(tmp_path)
    status, lines = _start({"STORAGE_URI": str(tmp_path), "TASK": "fill-mask", "EXIT_ON_FAILURE": "true"})
    assert status == 1
    assert any("EXIT_ON_FAILURE" in line for line in lines)


def test_a_server_whose_model_is_unreachable_stays_and_reports_the_next_attempt() -> None:
    # Without TASK, the start itself has to look up the model.
    server = Server({
        "STORAGE_URI": "hf://owner/model", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0",
        "EXIT_ON_FAILURE": "true", "HF_HUB_CACHE": "/nonexistent",
    })  # fmt: skip
    try:
        server.wait_for(SETTLED)
        reason = requests.get(f"{server.url}/v1/models/model", timeout=10)
        assert reason.status_code == 503
        assert "cannot be reached" in reason.text
        assert "It is tried again in" in reason.text
        (entry,) = requests.post(f"{server.url}/v2/repository/index", timeout=10).json()
        assert (entry["state"], "It is tried again in" in entry["reason"]) == ("UNAVAILABLE", True)
    finally:
        server.stop()

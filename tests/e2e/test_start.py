"""Promises of the start: one readable line for what is wrong, and no process left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.server import Server
from tests.tiny import bert_config, wordpiece_tokenizer


def _start(environment: dict[str, str]) -> tuple[int, list[str]]:
    server = Server(environment)
    try:
        status = server.wait_ended()
    finally:
        server.stop()
    # BentoML says which file it loads.
    return status, [line for line in server.log if line not in ("", "<end of log>") and "[INFO] [cli]" not in line]


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "STORAGE_URI is not set"),
        ({"STORAGE_URI": "/no/such/folder"}, "/no/such/folder does not exist"),
        ({"STORAGE_URI": "ftp://host/model", "TASK": "fill-mask"}, "'ftp://' is not a known storage scheme"),
        ({"STORAGE_URI": "/tmp", "TASK": "translation"}, "TASK: Input should be 'text-classification'"),
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


def test_a_model_that_does_not_say_its_task_stops_the_start_and_lists_the_tasks(tmp_path: Path) -> None:
    bert_config(wordpiece_tokenizer()).save_pretrained(tmp_path)
    status, lines = _start({"STORAGE_URI": str(tmp_path)})
    assert status != 0
    assert len(lines) == 1
    assert "TASK is not set" in lines[0]
    assert "text2text-generation" in lines[0]

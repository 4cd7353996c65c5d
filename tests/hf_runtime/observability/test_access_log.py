"""Promise: the access log has one line per request, for people and for programs."""

from __future__ import annotations

import logging

import pytest

from hf_runtime.observability.access_log import log_access
from hf_runtime.observability.request_record import RequestRecord


def test_a_line_names_the_request_and_its_outcome(caplog: pytest.LogCaptureFixture) -> None:
    record = RequestRecord("POST", "/v1/models/x:predict", "id", started=1.0, ended=1.25)
    record.status, record.client, record.model_name, record.instances = 200, "10.0.0.1", "x", 3
    with caplog.at_level(logging.INFO, "hf_runtime.observability"):
        log_access(record)
    assert caplog.messages == ["10.0.0.1 POST /v1/models/x:predict 200 250.0 ms, model x, instances 3"]
    said = vars(caplog.records[0])
    assert (said["path"], said["status"], said["duration"]) == ("/v1/models/x:predict", 200, 0.25)


def test_a_path_cannot_add_a_line_or_control_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    record = RequestRecord("GET", "/a\nb\r\x1b[31m\u2028c\x85d\x00\x7fé", "id", started=1.0, ended=1.001)
    record.model_name = "x\ny"
    with caplog.at_level(logging.INFO, "hf_runtime.observability"):
        log_access(record)
    assert caplog.messages == [r"- GET /a\nb\r\x1b[31m\u2028c\x85d\x00\x7fé 499 1.0 ms, model x\ny"]
    assert vars(caplog.records[0])["path"] == record.path  # JSON escapes these characters itself.


def test_unknown_fields_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    record = RequestRecord("GET", "/", "id", started=1.0, ended=1.001)
    with caplog.at_level(logging.INFO, "hf_runtime.observability"):
        log_access(record)
    assert caplog.messages == ["- GET / 499 1.0 ms"]

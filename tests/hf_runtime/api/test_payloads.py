"""Promise: logging of payloads harms no request."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from hf_runtime.api.http.payload_log import log_items, log_payload


def test_a_long_payload_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_payload("answers", "x", "a" * 5000)
    assert caplog.messages[0].endswith("… and 1002 characters")


def test_a_payload_that_cannot_be_logged_is_served(caplog: pytest.LogCaptureFixture) -> None:
    deep: Any = "text"
    for _ in range(900):
        deep = [deep]
    with caplog.at_level(logging.INFO):
        assert log_items("x", [(deep, {})]) == [(deep, {})]
    assert "not shown: " in caplog.messages[0]

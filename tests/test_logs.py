"""Promises of the logs: what is secret is hidden, whoever logs it, and lines say which request they are about."""

from __future__ import annotations

import io
import logging
from json import loads

import pytest

from logs import Redaction, configure_logging
from observability.log_format import JSON_FORMATTER
from observability.log_records import RequestFields
from observability.origin import Origin, about
from settings import ModelSettings, ServerSettings


def _logged(
    secrets: tuple[str, ...], *, fields: bool = False, json: bool = False
) -> tuple[logging.Logger, io.StringIO]:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JSON_FORMATTER if json else logging.Formatter("%(message)s%(trace_msg)s" if fields else None))
    if fields:
        handler.addFilter(RequestFields("the-model"))
    handler.addFilter(Redaction(secrets))
    logger = logging.Logger("somebody's")
    logger.addHandler(handler)
    return logger, text


def test_messages_and_stack_traces_hide_secrets_and_keep_the_rest() -> None:
    logger, text = _logged(("hf_secret", "hf_secret_longer"))
    logger.info("asked with %s and %s for %d files", "hf_secret", "hf_secret_longer", 3)
    try:
        raise ValueError("no access with hf_secret")
    except ValueError:
        logger.exception("failed")
    assert "hf_secret" not in text.getvalue()
    assert "longer" not in text.getvalue()
    assert "asked with [hidden] and [hidden] for 3 files" in text.getvalue()
    assert "ValueError: no access with [hidden]" in text.getvalue()


def test_secrets_are_tokens_and_keys_but_not_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    options = {
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "h-headers": '{"Authorization": "Bearer x"}',
    }
    model = ModelSettings.model_validate({"storage_uri": "s3://b/m", "hf_token": "hf_x", "storage_options": options})
    assert set(model.secrets) == {"hf_x", "hidden", "Bearer x"}


def test_what_signs_a_link_is_a_secret_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    model = ModelSettings(storage_uri="https://user:word@host/model.zip?sig=signed")
    assert set(model.secrets) == {"word", "sig=signed"}


def test_lines_name_the_requests_that_they_are_about() -> None:
    logger, text = _logged((), fields=True)
    trace = "0" * 31 + "1"
    logger.warning("none")
    with about(Origin("a", f"00-{trace}-{'2' * 16}-01")):
        logger.warning("one")
        with about(Origin("a"), Origin("b"), None, Origin("b")):
            logger.warning("two")
    assert text.getvalue().splitlines() == ["none", f"one (request=a, trace={trace})", "two (requests=a,b)"]


def test_a_json_line_has_the_request_its_trace_and_one_field_for_the_exception() -> None:
    logger, text = _logged(("hf_secret",), fields=True, json=True)
    quoted = "a client's text"
    with about(Origin("a", f"00-{'1' * 32}-{'2' * 16}-01")):
        try:
            raise ValueError(quoted)
        except ValueError:
            logger.exception("failed with %s", "hf_secret", extra={"path": "/hf_secret"})
    (line,) = text.getvalue().splitlines()
    said = loads(line)
    assert said.pop("time").endswith("+00:00")
    assert said.pop("exception").startswith("Traceback (most recent call last):\n")
    assert said == {
        "level": "ERROR", "logger": "somebody's", "message": "failed with [hidden]", "path": "/[hidden]",
        "request_id": "a", "trace_id": "1" * 32, "span_id": "2" * 16, "model": "the-model",
    }  # fmt: skip
    assert quoted not in line


def test_asyncio_does_not_quote_what_nobody_waited_for() -> None:
    logger, text = _logged((), fields=True)
    logger.name = "asyncio"
    logger.error("Future exception was never retrieved\nfuture: <Future exception=ValueError('a text')>")
    assert text.getvalue() == "Future exception was never retrieved\n"


def test_settings_may_be_applied_again_with_more_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "handlers", [handler])
    configure_logging(ServerSettings(), {"first-secret"})
    configure_logging(ServerSettings(), {"second-secret"}, model="x")
    assert len(handler.filters) == 2
    handler.handle(logging.makeLogRecord({"name": "x", "msg": "first-secret second-secret"}))
    assert text.getvalue() == "[hidden] [hidden]\n"

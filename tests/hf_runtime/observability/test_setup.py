"""Promise: logs hide secrets, and their lines name the requests that they are about."""

from __future__ import annotations

import io
import logging
from json import loads

import pytest

from hf_runtime.contract.request_context import RequestContext, request_context
from hf_runtime.observability.log_format import JSON_FORMATTER
from hf_runtime.observability.log_records import RequestFields
from hf_runtime.observability.setup import Redaction, configure_logging
from hf_runtime.settings import ModelSettings, ServerSettings


def _logged(
    secrets: tuple[str, ...], *, fields: bool = False, json: bool = False, show_errors: bool = False
) -> tuple[logging.Logger, io.StringIO]:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JSON_FORMATTER if json else logging.Formatter("%(message)s%(trace_msg)s" if fields else None))
    if fields:
        handler.addFilter(RequestFields("the-model", show_errors=show_errors, escape=not json))
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


def test_the_signature_of_a_link_is_a_secret_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    model = ModelSettings(storage_uri="https://user:word@host/model.zip?sig=signed")
    assert set(model.secrets) == {"word", "sig=signed"}


def test_lines_name_the_requests_that_they_are_about() -> None:
    logger, text = _logged((), fields=True)
    trace = "0" * 31 + "1"
    logger.warning("none")
    with request_context(RequestContext("a", f"00-{trace}-{'2' * 16}-01")):
        logger.warning("one")
        with request_context(RequestContext("a"), RequestContext("b"), None, RequestContext("b")):
            logger.warning("two")
    assert text.getvalue().splitlines() == ["none", f"one (request=a, trace={trace})", "two (requests=a,b)"]


def test_a_json_line_has_the_request_its_trace_and_one_field_for_the_exception() -> None:
    logger, text = _logged(("hf_secret",), fields=True, json=True)
    quoted = "a client's text"
    with request_context(RequestContext("a", f"00-{'1' * 32}-{'2' * 16}-01")):
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


_FORGED = "2026-01-01 [INFO] forged"


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_quoted_input_in_a_message_begins_no_line(separator: str) -> None:
    logger, text = _logged((), fields=True, show_errors=True)
    said = f"a{separator}{_FORGED}"
    logger.info("path %s, error %s, model %r", said, ValueError(said), said)
    logger.info("named %(path)s", {"path": said})
    logger.info(said)
    try:
        raise LookupError(said)
    except LookupError:
        logger.exception("failed")
    lines = text.getvalue().splitlines()
    assert not any(line.startswith(_FORGED) for line in lines)
    assert sum(_FORGED in line for line in lines) >= 4
    assert len(lines[0].split(_FORGED)) == 4


def test_quoted_input_in_a_message_cannot_control_a_terminal_or_text_direction() -> None:
    logger, text = _logged((), fields=True)
    logger.info("%s and %d", "\x1b[2J\x07\x9b31m\u202e\u2066\ud800 é🙂", 3)
    assert text.getvalue() == "\\x1b[2J\\x07\\x9b31m\\u202e\\u2066\\ud800 é🙂 and 3\n"


def test_intended_line_breaks_of_a_message_stay() -> None:
    logger, text = _logged((), fields=True)
    logger.info("served. Try:\ncurl %s", "x")
    assert text.getvalue() == "served. Try:\ncurl x\n"


def test_json_keeps_the_original_message() -> None:
    logger, text = _logged((), fields=True, json=True)
    logger.info("path %s", "/a\nb")
    (line,) = text.getvalue().splitlines()
    assert loads(line)["message"] == "path /a\nb"


def test_asyncio_does_not_quote_results_that_were_never_retrieved() -> None:
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

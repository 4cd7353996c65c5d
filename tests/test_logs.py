"""Promise of the logs: what is secret is hidden, whoever logs it."""

from __future__ import annotations

import io
import logging

import pytest

from logs import Redaction
from settings import ModelSettings


def _logged(secrets: tuple[str, ...]) -> tuple[logging.Logger, io.StringIO]:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
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

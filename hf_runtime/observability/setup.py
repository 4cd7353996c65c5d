"""Logging setup of this process: level, format, request fields and redaction of secrets.

BentoML creates the handlers. This module adds the server's filters and, if configured, the JSON format.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType

from hf_runtime.observability.log_format import JSON_FORMATTER
from hf_runtime.observability.log_records import RequestFields
from hf_runtime.settings import ServerSettings

_PACKAGES = ("hf_runtime", "runners")
#: Loggers that have their own setting and log whatever the level is.
_ALWAYS_ENABLED = ("hf_runtime.observability.access_log", "hf_runtime.api.http.payload_log")
#: Replacement for a secret.
HIDDEN = "[hidden]"


def configure_logging(
    server: ServerSettings, secrets: Iterable[str] = (), *, level: str | None = None, model: str | None = None
) -> None:
    """Configure the loggers and handlers of this process.

    It may be called again when more secrets are known.

    Args:
        secrets: values to hide in all log lines, in addition to those of earlier calls.
        level: log level of this project's packages; the server's if None.
        model: name of the model that this process computes.
    """
    for package in _PACKAGES:
        logging.getLogger(package).setLevel((level or server.log_level).upper())
    for name in _ALWAYS_ENABLED:
        logging.getLogger(name).setLevel(logging.INFO)
    fields = RequestFields(model, show_errors=server.log_payloads, escape=server.log_format == "text")
    secrets = frozenset(secrets)
    for handler in _handlers():
        known = [old for old in handler.filters if isinstance(old, Redaction)]
        others = [old for old in handler.filters if not isinstance(old, Redaction | RequestFields)]
        # Redaction comes last, because the other filters add text to the record.
        handler.filters = [*others, fields, Redaction(secrets.union(*(old.secrets for old in known)))]
        if server.log_format == "json":
            handler.setFormatter(JSON_FORMATTER)
    if server.log_format == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda failed: _log_uncaught(
            failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback
        )


def redirect_library_logs() -> None:
    """Make the Hugging Face libraries log through the handlers of this process.

    To be called after they are imported, because they install their own handlers.
    """
    for name in ("transformers", "huggingface_hub"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _handlers() -> Iterator[logging.Handler]:
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    yield from dict.fromkeys(handler for logger in loggers for handler in logger.handlers)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger().critical("Uncaught exception", exc_info=(kind, error, traceback))


class Redaction(logging.Filter):
    """Filter that replaces secrets in every field of a record.

    It is the last of several precautions: an address or a header in a library's error may contain a token.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self.secrets = tuple(filter(None, secrets))

    def filter(self, record: logging.LogRecord) -> bool:
        """Remove the secrets from the record and let it pass."""
        if self.secrets:
            message = record.getMessage()
            if (clean := self._hide_secrets(message)) != message:
                record.msg, record.args = clean, ()
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            for name, value in vars(record).items():
                if isinstance(value, str) and name != "msg":
                    setattr(record, name, self._hide_secrets(value))
        return True

    def _hide_secrets(self, text: str) -> str:
        return hide(text, self.secrets)


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return the text with all secrets replaced."""
    # The longest first, because one may contain another.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text

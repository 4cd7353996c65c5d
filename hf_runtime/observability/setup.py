"""How this process logs: from which level on, in which form, about which request, and what no line may say.

BentoML makes the handlers; here they get this server's filters and, if asked for, JSON.
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
#: What is printed because a setting of its own says so, whatever the level.
_ASKED_FOR = ("hf_runtime.observability.access_log", "hf_runtime.api.http.payload_log")
#: Stands where a secret was.
HIDDEN = "[hidden]"


def configure_logging(
    server: ServerSettings, secrets: Iterable[str] = (), *, level: str | None = None, model: str | None = None
) -> None:
    """Set up the loggers and handlers of this process; once more, with what has become known, does no harm.

    Args:
        secrets: are hidden in what any library logs, beside those of earlier calls.
        level: from which this project's packages log; the server's if None.
        model: that this process computes.
    """
    for package in _PACKAGES:
        logging.getLogger(package).setLevel((level or server.log_level).upper())
    for name in _ASKED_FOR:
        logging.getLogger(name).setLevel(logging.INFO)
    fields = RequestFields(model, show_errors=server.log_payloads, escape=server.log_format == "text")
    secrets = frozenset(secrets)
    for handler in _handlers():
        known = [old for old in handler.filters if isinstance(old, Redaction)]
        others = [old for old in handler.filters if not isinstance(old, Redaction | RequestFields)]
        # What is hidden comes last: until then, a record gains text.
        handler.filters = [*others, fields, Redaction(secrets.union(*(old.secrets for old in known)))]
        if server.log_format == "json":
            handler.setFormatter(JSON_FORMATTER)
    if server.log_format == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda failed: _log_uncaught(
            failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback
        )


def adopt_libraries() -> None:
    """Let the Hugging Face libraries, once imported, log through the handlers of this process in place of theirs."""
    for name in ("transformers", "huggingface_hub"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _handlers() -> Iterator[logging.Handler]:
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    yield from dict.fromkeys(handler for logger in loggers for handler in logger.handlers)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger().critical("an exception was not caught", exc_info=(kind, error, traceback))


class Redaction(logging.Filter):
    """Replaces secrets in all that a handler is about to write of a record.

    The last of several precautions: an address or a header in a library's error may hold a token.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self.secrets = tuple(filter(None, secrets))

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without secrets."""
        if self.secrets:
            message = record.getMessage()
            if (clean := self._clean(message)) != message:
                record.msg, record.args = clean, ()
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            for name, value in vars(record).items():
                if isinstance(value, str) and name != "msg":
                    setattr(record, name, self._clean(value))
        return True

    def _clean(self, text: str) -> str:
        return hide(text, self.secrets)


def hide(text: str, secrets: Iterable[str]) -> str:
    """A text without secrets."""
    # The longest first, in case one contains another.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text

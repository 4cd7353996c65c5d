"""Levels of this project's loggers, and what no logger may say; BentoML sets up where lines go and how they look."""

from __future__ import annotations

import logging
from collections.abc import Iterable

_ROOMS = ("batching", "generation", "loading", "protocols", "runners", "service", "transport")
_HIDDEN = "[hidden]"


def configure_logging(level: str, secrets: Iterable[str] = ()) -> None:
    """Let this project's rooms log from `level` on, and hide secrets in what any library logs in this process."""
    for room in _ROOMS:
        logging.getLogger(room).setLevel(level.upper())
    redaction = Redaction(secrets)
    for name in (None, "bentoml", "uvicorn", "transformers", "huggingface_hub"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(redaction)


class Redaction(logging.Filter):
    """Replaces secrets in the messages and stack traces that a handler is about to write.

    The last of several precautions: an address or a header in a library's error may hold a token.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        # The longest first, in case one contains another.
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without secrets."""
        if self._secrets:
            message = record.getMessage()
            if (clean := self._clean(message)) != message:
                record.msg, record.args = clean, ()
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            if record.exc_text:
                record.exc_text = self._clean(record.exc_text)
        return True

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text

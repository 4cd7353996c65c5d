"""Filter that adds request, process and a redacted exception to every log record."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import bentoml

from hf_runtime.contract.request_context import current_request_contexts
from hf_runtime.observability.one_line import escape_record
from hf_runtime.observability.tracebacks import format_without_payload

#: Loggers whose exceptions are about a process or a model, not about a request; root logs uncaught exceptions.
_LOGGERS_WITHOUT_REQUESTS = ("circus", "root", "runners.host", "runners.models", "runners.storage")


class RequestFields(logging.Filter):
    """Filter that adds the ids of the requests to each record and hides their payloads.

    An exception's message may quote an input or generated text. Unless payloads may be logged, a stack trace contains
    the message only if no request is concerned or if PyTorch raised it, because PyTorch handles no text.

    Args:
        model: name of the model that this process computes.
        show_errors: show_message the messages of all exceptions.
        escape: escape line breaks in values that messages quote; JSON needs no escaping.
    """

    def __init__(self, model: str | None = None, *, show_errors: bool = False, escape: bool = False) -> None:
        super().__init__()
        self._model = model
        self._show_errors = show_errors
        self._escape = escape

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields to the record and let it pass."""
        request_contexts = current_request_contexts()
        requests = list(dict.fromkeys(request_context.request_id for request_context in request_contexts))
        trace = request_contexts[0].trace_id if len(request_contexts) == 1 else None
        fields: dict[str, Any] = {
            "service_process": _process_name(),
            # Always set, because BentoML sets a request_id with another meaning.
            "request_id": requests[0] if len(requests) == 1 else None,
            "request_ids": requests if len(requests) > 1 else None,
            "trace_id": trace,
            "span_id": request_contexts[0].span_id if trace is not None else None,
            "trace_msg": _text_suffix(requests, trace),
        }
        vars(record).update(fields)
        if not hasattr(record, "model"):
            record.model = self._model
        self._format_exception(record, show_message=not request_contexts and not _may_quote_request(record))
        if self._escape:
            escape_record(record)
        return True

    def _format_exception(self, record: logging.LogRecord, *, show_message: bool) -> None:
        if record.name == "asyncio" and not self._show_errors:
            # Drop the second line, which shows the task or future with its exception.
            record.msg, record.args = record.getMessage().split("\n", 1)[0], ()
        if record.exc_info and not record.exc_text:
            error = record.exc_info[1]
            if error is None or self._show_errors or show_message:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            else:
                record.exc_text = format_without_payload(error)
        # Otherwise formatters would append the original exception.
        record.exc_info = None


def _text_suffix(requests: Sequence[str], trace: str | None) -> str:
    """Return the end of a text line, in the field that BentoML uses for traces."""
    if not requests:
        return ""
    traced = f", trace={trace}" if trace is not None else ""
    return f" (request{'s' * (len(requests) > 1)}={','.join(requests)}{traced})"


def _may_quote_request(record: logging.LogRecord) -> bool:
    return not any(
        record.name == logger or record.name.startswith(f"{logger}.") for logger in _LOGGERS_WITHOUT_REQUESTS
    )


def _process_name() -> str | None:
    """Return the service and the number of this process, such as `runner-1:1`."""
    context = bentoml.server_context
    return ":".join(str(part) for part in (context.service_name, context.worker_index) if part) or None

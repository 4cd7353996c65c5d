"""What every log record is given before it is written: its request, its process, and an exception without payload."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import bentoml

from hf_runtime.contract.request_context import current_request_contexts
from hf_runtime.observability.one_line import keep_lines
from hf_runtime.observability.tracebacks import without_payload

#: Their exceptions say why a process or a model cannot start; root's are those that nobody caught.
_NOT_OF_REQUESTS = ("circus", "root", "runners.host", "runners.models", "runners.storage")


class RequestFields(logging.Filter):
    """Tells of each record which requests it is about, and hides what their clients may have written.

    An exception's message may quote the text that caused it, or what a model wrote; unless payloads may be logged, a
    stack trace shows it only where no request is concerned, or PyTorch has raised it, which never sees a text.

    Args:
        model: that this process computes.
        show_errors: whether exceptions may quote anything.
        escape: whether what messages quote is kept on one line; JSON does so by itself.
    """

    def __init__(self, model: str | None = None, *, show_errors: bool = False, escape: bool = False) -> None:
        super().__init__()
        self._model = model
        self._show_errors = show_errors
        self._escape = escape

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, with more to say."""
        request_contexts = current_request_contexts()
        requests = list(dict.fromkeys(request_context.request_id for request_context in request_contexts))
        trace = request_contexts[0].trace_id if len(request_contexts) == 1 else None
        said: dict[str, Any] = {
            "service_process": _process(),
            # One that has another meaning is BentoML's.
            "request_id": requests[0] if len(requests) == 1 else None,
            "request_ids": requests if len(requests) > 1 else None,
            "trace_id": trace,
            "span_id": request_contexts[0].span_id if trace is not None else None,
            "trace_msg": _suffix(requests, trace),
        }
        vars(record).update(said)
        if not hasattr(record, "model"):
            record.model = self._model
        self._write_exception(record, harmless=not request_contexts and not _is_of_requests(record))
        if self._escape:
            keep_lines(record)
        return True

    def _write_exception(self, record: logging.LogRecord, *, harmless: bool) -> None:
        if record.name == "asyncio" and not self._show_errors:
            # The second line is the task or future, with its exception.
            record.msg, record.args = record.getMessage().split("\n", 1)[0], ()
        if record.exc_info and not record.exc_text:
            error = record.exc_info[1]
            if error is None or self._show_errors or harmless:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            else:
                record.exc_text = without_payload(error)
        # Else formatters would write it again, as it is.
        record.exc_info = None


def _suffix(requests: Sequence[str], trace: str | None) -> str:
    """What a line of text ends in, where BentoML tells of traces."""
    if not requests:
        return ""
    traced = f", trace={trace}" if trace is not None else ""
    return f" (request{'s' * (len(requests) > 1)}={','.join(requests)}{traced})"


def _is_of_requests(record: logging.LogRecord) -> bool:
    return not any(record.name == logger or record.name.startswith(f"{logger}.") for logger in _NOT_OF_REQUESTS)


def _process() -> str | None:
    """As `runner-1:1`: the service, and the number of its process."""
    context = bentoml.server_context
    return ":".join(str(part) for part in (context.service_name, context.worker_index) if part) or None

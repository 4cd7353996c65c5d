"""Access log: one line per request."""

from __future__ import annotations

import logging

from hf_runtime.observability.one_line import one_line
from hf_runtime.observability.request_record import RequestRecord

logger = logging.getLogger(__name__)


def log_access(record: RequestRecord) -> None:
    """Log one line about a finished request.

    This is an `Observer` of requests. The filters of the log add the ids of the request and its trace.
    """
    assert record.ended is not None, "this is a bug: a request was reported before its end"
    duration = record.ended - record.started
    fields = {"model": record.model_name, "instances": record.instances or None, "error": record.error}
    details = "".join(f", {name} {value}" for name, value in fields.items() if value is not None)
    logger.info(
        "%s %s %s %d %.1f ms%s", record.client or "-", one_line(record.method), one_line(record.path), record.status,
        1000 * duration, one_line(details),
        extra={
            "client": record.client,
            "method": record.method,
            "path": record.path,
            "status": record.status,
            "duration": round(duration, 6),
            **fields,
        },
    )  # fmt: skip

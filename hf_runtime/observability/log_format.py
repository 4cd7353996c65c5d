"""Log format with one JSON object per line."""

from __future__ import annotations

from datetime import UTC, datetime
from logging import LogRecord
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.orjson import OrjsonFormatter

#: Fields that BentoML and uvicorn add to records for their own formats.
_IGNORED_FIELDS = ("color_message", "component", "levelname_bracketed", "service_name", "trace_msg", "websocket")


class _Formatter(OrjsonFormatter):
    def add_fields(self, log_data: dict[str, Any], record: LogRecord, message_dict: dict[str, Any]) -> None:
        # In UTC with milliseconds, in the format of RFC 3339.
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        super().add_fields(log_data, record, message_dict)
        for name in [name for name, value in log_data.items() if value is None]:
            del log_data[name]


JSON_FORMATTER = _Formatter(
    ["levelname", "name", "message"],
    rename_fields={
        "levelname": "level",
        "name": "logger",
        "service_process": "process",
        "exc_info": "exception",
        "stack_info": "stack",
    },
    reserved_attrs=[*RESERVED_ATTRS, *_IGNORED_FIELDS],
)

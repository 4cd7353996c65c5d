"""Escaping of untrusted text in logs: no line breaks and no terminal control characters."""

from __future__ import annotations

import logging
import re
from typing import Any

#: Control characters, Unicode line separators, marks that change the text direction, and lone surrogates, which cannot
#: be encoded.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: The same without line breaks and tabs.
_UNSAFE_IN_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def one_line(text: str) -> str:
    r"""Return the text with unsafe characters as escapes, such as `\n`, `\x1b` and `\u2028`."""
    return _UNSAFE.sub(_escape_character, text)


def _escape_character(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1] if found[0] < "\ud800" else f"\\u{ord(found[0]):04x}"


def escape_record(record: logging.LogRecord) -> None:
    """Escape the arguments of a record, for formats that do not escape by themselves.

    Line breaks of the message itself stay. If the message has no arguments, so that quoted text is not marked,
    and in an exception, all lines but the first are indented. So no foreign text can look like a line of the log.
    """
    if _UNSAFE.search(record.getMessage()):
        line_break = "\n" if record.args else "\n    "
        if isinstance(record.args, tuple):
            record.args = tuple(map(_escape_argument, record.args))
        elif record.args:
            record.args = {name: _escape_argument(value) for name, value in record.args.items()}
        message = _UNSAFE_IN_LINES.sub(_escape_character, record.getMessage())
        record.msg, record.args = message.replace("\n", line_break), ()
    if record.exc_text:
        record.exc_text = _UNSAFE_IN_LINES.sub(_escape_character, record.exc_text).replace("\n", "\n    ")


def _escape_argument(argument: Any) -> Any:
    if isinstance(argument, int | float | None):
        return argument
    text = str(argument)
    return one_line(text) if _UNSAFE.search(text) else argument

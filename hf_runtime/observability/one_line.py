"""Text of other people's making on one line of a log, with nothing that a terminal would obey."""

from __future__ import annotations

import logging
import re
from typing import Any

#: Control characters, line separators beyond ASCII's, marks that turn the direction of writing, and halves of
#: characters, which no encoding has a place for.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: The same but for line breaks and tabs.
_UNSAFE_IN_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def one_line(text: str) -> str:
    r"""The text with escapes as Python writes them, such as `\n`, `\x1b` and `\u2028`."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1] if found[0] < "\ud800" else f"\\u{ord(found[0]):04x}"


def keep_lines(record: logging.LogRecord) -> None:
    """Keep what is put into a record from writing lines of its own, for formats that escape nothing themselves.

    Lines of the message itself stay. If nobody can tell it from what it quotes, and in an exception, all but the first
    are indented: none that somebody else has written begins as a line of the log does.
    """
    if _UNSAFE.search(record.getMessage()):
        between = "\n" if record.args else "\n    "
        if isinstance(record.args, tuple):
            record.args = tuple(map(_safe, record.args))
        elif record.args:
            record.args = {name: _safe(value) for name, value in record.args.items()}
        message = _UNSAFE_IN_LINES.sub(_escaped, record.getMessage())
        record.msg, record.args = message.replace("\n", between), ()
    if record.exc_text:
        record.exc_text = _UNSAFE_IN_LINES.sub(_escaped, record.exc_text).replace("\n", "\n    ")


def _safe(argument: Any) -> Any:
    if isinstance(argument, int | float | None):
        return argument
    said = str(argument)
    return one_line(said) if _UNSAFE.search(said) else argument

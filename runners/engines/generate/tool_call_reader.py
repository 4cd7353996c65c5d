"""Finds tool calls in text while it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from runners.engines.generate.text import overlap


@dataclass(frozen=True, slots=True)
class ParsedToolCall:
    """A call that the model wrote; `arguments` is a JSON object, as text."""

    name: str
    arguments: str


class ToolCallReader:
    """Parts one text into content and calls. What turns out to be no call, or none that is whole, is content.

    White space around a call belongs to it. However the text is cut into pieces, all pieces together give the same.

    Args:
        names: of the functions that there are; a call of any other is content.
        trigger: what begins a call; "" if only its JSON does.
        opening: what the JSON begins with.
        after: what ends a call; it may be missing.
        arguments: the key of the arguments.
        leads: there are calls at the beginning of the text only.
    """

    def __init__(
        self, names: Collection[str], *, trigger: str, opening: str, after: str, arguments: str, leads: bool
    ) -> None:
        self._names = frozenset(names)
        self._trigger = trigger
        self._sought = trigger or opening
        self._opening = opening[0]
        self._after = after
        self._arguments = arguments
        self._leads = leads
        self._text = ""  # withheld
        self._call: _Call | None = None  # that begins the withheld text
        self._tail: str | None = None  # what may still come of the last call
        self._may_begin = True

    def feed(self, text: str) -> list[str | ParsedToolCall]:
        """What is certain with more text: content, and calls that are complete."""
        self._text += text
        return self._read(ended=False)

    def end(self) -> list[str | ParsedToolCall]:
        """What was withheld."""
        return self._read(ended=True)

    def _read(self, ended: bool) -> list[str | ParsedToolCall]:
        given: list[str | ParsedToolCall] = []
        going = True
        while going:
            if self._call is not None:
                going = self._read_call(self._call, given, ended)
            elif self._tail is not None:
                going = self._skip_tail(self._tail, ended)
            else:
                going = self._read_text(given, ended)
        return given

    def _read_text(self, given: list[str | ParsedToolCall], ended: bool) -> bool:
        """Give out the text up to a call; whether one begins."""
        text = self._text
        if self._leads and self._may_begin:
            begun = text.lstrip()
            if self._sought.startswith(begun) and begun != self._sought and not ended:
                return False
            at = len(text) - len(begun) if begun.startswith(self._sought) else -1
            self._may_begin = False
        else:
            at = -1 if self._leads else text.find(self._sought)
        if at < 0:
            held = 0 if ended or self._leads else overlap(text, self._sought)
            content = text[: len(text) - held]
            if not ended and not self._leads:
                content = content.rstrip()
            self._give(given, content)
            return False
        self._give(given, text[:at].rstrip())
        start = len(self._text) - len(self._text.lstrip()) + len(self._trigger)
        self._call = _Call(start, self._opening)
        return True

    def _read_call(self, call: _Call, given: list[str | ParsedToolCall], ended: bool) -> bool:
        """Give out the calls that the text begins with, or the text that is none; whether that is decided."""
        if not call.read(self._text) and not ended:
            return False
        self._call = None
        calls = self._parsed(self._text[call.start : call.end]) if call.whole else ()
        if calls:
            given += calls
            self._tail = self._after
            self._text = self._text[call.end :]
        else:
            self._give(given, self._text[: call.end])
        return True

    def _skip_tail(self, tail: str, ended: bool) -> bool:
        """Pass over what belongs to the last call; whether anything else follows."""
        self._text = self._text.lstrip()
        if tail and self._text.startswith(tail):
            self._text = self._text[len(tail) :]
            self._tail = ""
            return True
        if tail.startswith(self._text) and not ended:
            return False  # there is no text, or the beginning of the tail
        self._tail = None
        return True

    def _parsed(self, text: str) -> list[ParsedToolCall]:
        """The calls in JSON; none if any of it is something else."""
        try:
            value = json.loads(text, parse_constant=_refuse)
            calls = [self._as_call(entry) for entry in (value if isinstance(value, list) else [value])]
        except (ValueError, RecursionError):
            return []
        return [call for call in calls if call is not None] if None not in calls else []

    def _as_call(self, value: Any) -> ParsedToolCall | None:
        if not isinstance(value, dict):
            return None
        name, arguments = value.get("name"), value.get(self._arguments)
        if not isinstance(name, str) or name not in self._names or not isinstance(arguments, dict):
            return None
        return ParsedToolCall(name, _dumps(arguments))

    def _give(self, given: list[str | ParsedToolCall], content: str) -> None:
        if not content:
            return
        self._text = self._text[len(content) :]
        if given and isinstance(given[-1], str):
            given[-1] += content
        else:
            given.append(content)


class _Call:
    """Finds where JSON ends that may be half written.

    Attributes:
        start, end: where the JSON begins, and the first character behind what was read of it.
        whole: it is all there, as far as its brackets tell.
    """

    _PLAIN = re.compile(r"[\s:,0-9A-Za-z+.-]*")
    _STRING = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)

    def __init__(self, start: int, opening: str) -> None:
        self.start = self.end = start
        self.whole = False
        self._opening = opening
        self._depth = 0
        self._in_string = False

    def read(self, text: str) -> bool:
        """Go on in a text that has grown; whether the JSON has ended, or shown to be none."""
        while True:
            if self._in_string:
                self.end = _end(self._STRING.match(text, self.end))
                if self.end >= len(text) or text[self.end] == "\\":
                    return False
                self._in_string = False
                self.end += 1
                continue
            if self._depth == 0:
                self.start = self.end = self.end + len(text[self.end :]) - len(text[self.end :].lstrip())
            else:
                self.end = _end(self._PLAIN.match(text, self.end))
            if self.end >= len(text):
                return False
            character = text[self.end]
            if self._depth == 0 and character != self._opening:
                return True
            if character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
            else:
                return True
            self.end += 1
            if self._depth == 0:
                self.whole = True
                return True


def _end(match: re.Match[str] | None) -> int:
    assert match is not None, "this is a bug: the pattern matches nothing too"
    return match.end()


def _dumps(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Half a character can be escaped in JSON, but not sent.
    return text if text.isascii() or _is_text(text) else json.dumps(value, allow_nan=False)


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")

"""Streaming parser of tool calls in generated text."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from runners.engines.generate.text import overlap_length


@dataclass(frozen=True, slots=True)
class ParsedToolCall:
    """Tool call in a model's answer; `arguments` is a JSON object as text."""

    name: str
    arguments: str


class ToolCallReader:
    """Parser that splits one text into content and tool calls.

    Text that turns out to be no call, or an incomplete one, is content. White space around a call belongs to the call.
    The result does not depend on how the text is cut into chunks.

    Args:
        names: names of the known functions; a call of any other is content.
        trigger: text that begins a call; "" if only its JSON does.
        opening: the first characters of the JSON.
        after: text that ends a call; it may be missing.
        arguments: key of the arguments.
        at_start_only: calls may appear only at the beginning of the text.
    """

    def __init__(
        self, names: Collection[str], *, trigger: str, opening: str, after: str, arguments: str, at_start_only: bool
    ) -> None:
        self._names = frozenset(names)
        self._trigger = trigger
        self._call_start = trigger or opening
        self._opening = opening[0]
        self._after = after
        self._arguments = arguments
        self._at_start_only = at_start_only
        self._text = ""  # not returned yet
        self._call: _JsonScanner | None = None  # the call at the start of that text
        self._tail: str | None = None  # the part of `after` that may still follow the last call
        self._at_start = True

    def feed(self, text: str) -> list[str | ParsedToolCall]:
        """Add text, and return the content and complete calls that are final with it."""
        self._text += text
        return self._parse(ended=False)

    def end(self) -> list[str | ParsedToolCall]:
        """Return the content and calls that were held back."""
        return self._parse(ended=True)

    def _parse(self, ended: bool) -> list[str | ParsedToolCall]:
        parsed: list[str | ParsedToolCall] = []
        progress = True
        while progress:
            if self._call is not None:
                progress = self._parse_call(self._call, parsed, ended)
            elif self._tail is not None:
                progress = self._skip_tail(self._tail, ended)
            else:
                progress = self._parse_content(parsed, ended)
        return parsed

    def _parse_content(self, parsed: list[str | ParsedToolCall], ended: bool) -> bool:
        """Append the content before the next call; return True if a call begins."""
        text = self._text
        if self._at_start_only and self._at_start:
            begun = text.lstrip()
            if self._call_start.startswith(begun) and begun != self._call_start and not ended:
                return False
            at = len(text) - len(begun) if begun.startswith(self._call_start) else -1
            self._at_start = False
        else:
            at = -1 if self._at_start_only else text.find(self._call_start)
        if at < 0:
            held = 0 if ended or self._at_start_only else overlap_length(text, self._call_start)
            content = text[: len(text) - held]
            if not ended and not self._at_start_only:
                content = content.rstrip()
            self._emit_content(parsed, content)
            return False
        self._emit_content(parsed, text[:at].rstrip())
        start = len(self._text) - len(self._text.lstrip()) + len(self._trigger)
        self._call = _JsonScanner(start, self._opening)
        return True

    def _parse_call(self, call: _JsonScanner, parsed: list[str | ParsedToolCall], ended: bool) -> bool:
        """Append the calls at the start of the text, or the text as content.

        Returns:
            False if more text is needed to decide.
        """
        if not call.scan(self._text) and not ended:
            return False
        self._call = None
        calls = self._parse_calls(self._text[call.start : call.end]) if call.complete else ()
        if calls:
            parsed += calls
            self._tail = self._after
            self._text = self._text[call.end :]
        else:
            self._emit_content(parsed, self._text[: call.end])
        return True

    def _skip_tail(self, tail: str, ended: bool) -> bool:
        """Skip the end of the last call; return False if more text is needed."""
        self._text = self._text.lstrip()
        if tail and self._text.startswith(tail):
            self._text = self._text[len(tail) :]
            self._tail = ""
            return True
        if tail.startswith(self._text) and not ended:
            return False  # the text is empty or a start of the tail
        self._tail = None
        return True

    def _parse_calls(self, text: str) -> list[ParsedToolCall]:
        """Parse calls in JSON; return none if any part of it is not a call."""
        try:
            value = json.loads(text, parse_constant=_reject_constant)
            calls = [self._to_call(entry) for entry in (value if isinstance(value, list) else [value])]
        except (ValueError, RecursionError):
            return []
        return [call for call in calls if call is not None] if None not in calls else []

    def _to_call(self, value: Any) -> ParsedToolCall | None:
        if not isinstance(value, dict):
            return None
        name, arguments = value.get("name"), value.get(self._arguments)
        if not isinstance(name, str) or name not in self._names or not isinstance(arguments, dict):
            return None
        return ParsedToolCall(name, _dumps(arguments))

    def _emit_content(self, parsed: list[str | ParsedToolCall], content: str) -> None:
        if not content:
            return
        self._text = self._text[len(content) :]
        if parsed and isinstance(parsed[-1], str):
            parsed[-1] += content
        else:
            parsed.append(content)


class _JsonScanner:
    """Scanner that finds the end of JSON in a text that may still grow.

    Attributes:
        start, end: index of the first character of the JSON, and of the first one not scanned yet.
        complete: all brackets are closed.
    """

    _PLAIN = re.compile(r"[\s:,0-9A-Za-z+.-]*")
    _STRING = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)

    def __init__(self, start: int, opening: str) -> None:
        self.start = self.end = start
        self.complete = False
        self._opening = opening
        self._depth = 0
        self._in_string = False

    def scan(self, text: str) -> bool:
        """Continue in a text that has grown; return True if the JSON has ended or is invalid."""
        while True:
            if self._in_string:
                self.end = _match_end(self._STRING.match(text, self.end))
                if self.end >= len(text) or text[self.end] == "\\":
                    return False
                self._in_string = False
                self.end += 1
                continue
            if self._depth == 0:
                self.start = self.end = self.end + len(text[self.end :]) - len(text[self.end :].lstrip())
            else:
                self.end = _match_end(self._PLAIN.match(text, self.end))
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
                self.complete = True
                return True


def _match_end(match: re.Match[str] | None) -> int:
    assert match is not None, "this is a bug: the pattern matches the empty string as well"
    return match.end()


def _dumps(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair can be escaped in JSON, but not encoded as UTF-8.
    return text if text.isascii() or _is_encodable(text) else json.dumps(value, allow_nan=False)


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _reject_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")

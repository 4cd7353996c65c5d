"""Streaming parser of tool calls in generated text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from runners.engines.generate.text import overlap_length
from runners.tasks.answers.parts import AnswerPart, ParsedToolCall

__all__ = ["CallScanner", "ParsedToolCall", "ToolCallReader"]


class CallScanner(ABC):
    """Scanner of the calls that begin at one index of a text that may still grow.

    Attributes:
        end: index of the first character that is not scanned.
        calls: the calls that were found; none if the text is not a call.
    """

    def __init__(self, start: int) -> None:
        self.end = start
        self.calls: list[ParsedToolCall] = []

    @abstractmethod
    def scan(self, text: str) -> bool:
        """Continue in a text that has grown; return True once nothing more is needed."""


class ToolCallReader:
    """Parser that splits one text into content and tool calls.

    Text that turns out to be no call is content, and so is an incomplete call, unless the answer was cut. White space
    around a call belongs to the call. The result does not depend on how the text is cut into chunks.

    Args:
        starts: texts that begin a call; none is the start of another.
        create_scanner: creates the scanner of a call from its start and the index behind it.
        after: texts that may follow a call and belong to it.
        at_start_only: calls may appear only at the beginning of the text.
    """

    def __init__(
        self,
        starts: Sequence[str],
        create_scanner: Callable[[str, int], CallScanner],
        after: Sequence[str] = (),
        *,
        at_start_only: bool = False,
    ) -> None:
        self._starts = starts
        self._create_scanner = create_scanner
        self._after = after
        self._at_start_only = at_start_only
        self._text = ""  # not returned yet
        self._call: CallScanner | None = None  # the call at the start of that text
        self._skipping = False  # the text is what may follow a call
        self._at_start = True

    def feed(self, text: str) -> list[AnswerPart]:
        """As `AnswerReader`."""
        self._text += text
        return self._parse(ended=False)

    def end(self, *, cut: bool = False) -> list[AnswerPart]:
        """As `AnswerReader`."""
        return self._parse(ended=True, cut=cut)

    def _parse(self, ended: bool, cut: bool = False) -> list[AnswerPart]:
        parsed: list[AnswerPart] = []
        progress = True
        while progress:
            if self._call is not None:
                progress = self._parse_call(self._call, parsed, ended, cut)
            elif self._skipping:
                progress = self._skip_after(ended, cut)
            else:
                progress = self._parse_content(parsed, ended, cut)
        return parsed

    def _parse_content(self, parsed: list[AnswerPart], ended: bool, cut: bool) -> bool:
        """Append the content before the next call; return True if a call begins."""
        text = self._text
        if self._at_start_only and self._at_start:
            begun = text.lstrip()
            if any(start.startswith(begun) and begun != start for start in self._starts):
                if not ended:
                    return False
                if cut and begun:
                    self._text = ""
                    return False
            self._at_start = False
            found = [(len(text) - len(begun), start) for start in self._starts if begun.startswith(start)]
        elif self._at_start_only:
            found = []
        else:
            found = [(at, start) for start in self._starts if (at := text.find(start)) >= 0]
        if not found:
            self._emit_undecided(parsed, ended, cut)
            return False
        at, start = min(found)
        self._emit_content(parsed, text[:at].rstrip())
        begin = len(self._text) - len(self._text.lstrip()) + len(start)
        self._call = self._create_scanner(start, begin)
        return True

    def _emit_undecided(self, parsed: list[AnswerPart], ended: bool, cut: bool) -> None:
        """Append the content of a text without a call, up to what may begin one."""
        text = self._text
        held = 0
        if not self._at_start_only and (cut or not ended):
            held = max(overlap_length(text, start) for start in self._starts)
        content = text[: len(text) - held]
        if not self._at_start_only and (held or not ended):
            content = content.rstrip()
        self._emit_content(parsed, content)
        if cut:
            self._text = ""

    def _parse_call(self, call: CallScanner, parsed: list[AnswerPart], ended: bool, cut: bool) -> bool:
        """Append the calls at the start of the text, or the text as content.

        Returns:
            False if more text is needed to decide.
        """
        if not call.scan(self._text):
            if not ended:
                return False
            if cut:
                self._text, self._call = "", None
                return False
        self._call = None
        if call.calls:
            parsed += call.calls
            self._skipping = True
            self._text = self._text[call.end :]
        else:
            self._emit_content(parsed, self._text[: call.end])
        return True

    def _skip_after(self, ended: bool, cut: bool) -> bool:
        """Skip what follows the last call; return False if more text is needed."""
        self._text = self._text.lstrip()
        for after in self._after:
            if self._text.startswith(after):
                self._text = self._text[len(after) :]
                return True
        if any(after.startswith(self._text) for after in (*self._after, "")):
            if not ended:
                return False  # the text is empty or the start of what may follow
            if cut:
                self._text = ""
        self._skipping = False
        return True

    def _emit_content(self, parsed: list[AnswerPart], content: str) -> None:
        if not content:
            return
        self._text = self._text[len(content) :]
        if parsed and isinstance(parsed[-1], str):
            parsed[-1] += content
        else:
            parsed.append(content)

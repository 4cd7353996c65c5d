"""Reasoning between two marks, such as `<think>` and `</think>`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from runners.engines.generate.text import overlap_length
from runners.tasks.answers.lark import Lark
from runners.tasks.answers.parts import AnswerPart, AnswerReader, Reasoning


class Thinking(Enum):
    """State of reasoning at the beginning of an answer."""

    #: The answer is content.
    OFF = "off"
    #: The answer may begin with reasoning.
    POSSIBLE = "possible"
    #: The prompt has opened the reasoning.
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """Marks of a family of models around reasoning.

    Attributes:
        opening, closing: alternatives of the marks.
        parsers: vLLM's names.
        always_thinks: with one of these names, an answer is reasoning until it is closed, even if nothing opens it.
    """

    opening: tuple[str, ...]
    closing: tuple[str, ...]
    parsers: tuple[str, ...]
    always_thinks: frozenset[str] = frozenset()

    def is_in(self, template: str) -> bool:
        """Return true if a chat template contains the marks."""
        return any(mark in template for mark in (*self.opening, *self.closing))

    def find_state(self, text: str) -> Thinking:
        """Return the state at the end of a prompt."""
        text = text.rstrip()
        if text.endswith(self.opening):
            return Thinking.OPEN
        return Thinking.OFF if text.endswith(self.closing) else Thinking.POSSIBLE

    def find_state_within(self, text: str) -> Thinking:
        """Return the state at the end of a begun answer."""
        opened, closed = (max(text.rfind(mark) for mark in marks) for marks in (self.opening, self.closing))
        return Thinking.OPEN if opened > closed else Thinking.OFF

    def write_rules(self, lark: Lark, thinking: Thinking) -> str:
        """Return the expression of reasoning before an answer, up to its closing mark."""
        closing = lark.until(*self.closing, everything=True)
        if thinking is Thinking.OPEN:
            return lark.define("thinking", closing)
        opening = " | ".join(lark.literal(mark) for mark in self.opening)
        return lark.define("thinking", f'"\\n"? ({opening}) {closing}') + "?"


THINK = ThinkingFormat(
    ("<think>",),
    ("</think>",),
    (
        "qwen3", "deepseek_r1", "deepseek_v3", "ernie45", "glm45", "holo2", "kimi_k2", "minimax_m2", "nemotron_v3",
        "olmo3", "step3",
    ),
    frozenset({"deepseek_r1", "minimax_m2", "step3"}),
)  # fmt: skip
MISTRAL = ThinkingFormat(("[THINK]",), ("[/THINK]",), ("mistral",))
SEED = ThinkingFormat(("<seed:think>",), ("</seed:think>",), ("seed_oss",))
GRANITE = ThinkingFormat(
    ("Here is my thought process:", "Here's my thought process:"),
    ("Here is my response:", "Here's my response:"),
    ("granite",),
)

FORMATS = (THINK, MISTRAL, SEED, GRANITE)


class ThinkingReader:
    """Parser that separates the reasoning of one text from its content.

    White space next to the marks belongs to them.

    Args:
        is_open: the text begins within the reasoning.
        content: parser of the content; None if it has no parts.
    """

    def __init__(self, form: ThinkingFormat, *, is_open: bool, content: AnswerReader | None) -> None:
        self._form = form
        self._content = content
        self._text = ""  # not returned yet
        self._inside = is_open
        self._at_start = True  # nothing but white space was read in this part
        self._after_reasoning = False
        self._reasoned = False  # some of the reasoning was returned

    def feed(self, text: str) -> list[AnswerPart]:
        """As `AnswerReader`."""
        self._text += text
        return self._parse(ended=False)

    def end(self, *, cut: bool = False) -> list[AnswerPart]:
        """As `AnswerReader`."""
        parts = self._parse(ended=True, cut=cut)
        return parts + (self._content.end(cut=cut) if self._content is not None else [])

    def _parse(self, ended: bool, cut: bool = False) -> list[AnswerPart]:
        if self._at_start and (self._inside or not self._after_reasoning) and not self._skip_opening(ended, cut):
            return []
        return self._parse_reasoning(ended, cut) if self._inside else self._parse_content()

    def _skip_opening(self, ended: bool, cut: bool) -> bool:
        """Skip the opening mark; return False if more text is needed."""
        begun = self._text.lstrip()
        for mark in self._form.opening:
            if begun.startswith(mark):
                self._text = begun[len(mark) :]
                self._inside, self._at_start = True, False
                return True
        if any(mark.startswith(begun) for mark in self._form.opening):
            if not ended:
                return False
            if cut and begun:
                self._text = ""
        self._at_start = False
        return True

    def _parse_reasoning(self, ended: bool, cut: bool) -> list[AnswerPart]:
        if not self._reasoned:
            self._text = self._text.lstrip()
        text = self._text
        found = [(at, mark) for mark in self._form.closing if (at := text.find(mark)) >= 0]
        if found:
            at, mark = min(found)
            reasoning, self._text = text[:at].rstrip(), text[at + len(mark) :]
            self._inside, self._at_start, self._after_reasoning = False, True, True
            return [*_make_reasoning(reasoning), *self._parse_content()]
        held = max(overlap_length(text, mark) for mark in self._form.closing) if cut or not ended else 0
        reasoning = text[: len(text) - held].rstrip()
        self._reasoned = self._reasoned or bool(reasoning)
        if not ended:
            self._text = text[len(reasoning) :]
        return _make_reasoning(reasoning)

    def _parse_content(self) -> list[AnswerPart]:
        text, self._text = self._text, ""
        if self._after_reasoning and self._at_start:
            text = text.lstrip()
            self._at_start = not text
        if self._content is not None:
            return self._content.feed(text)
        return [text] if text else []


def _make_reasoning(text: str) -> list[AnswerPart]:
    return [Reasoning(text)] if text else []

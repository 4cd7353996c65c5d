"""Answers of gpt-oss: messages in the channels analysis, commentary and final.

Source: https://cookbook.openai.com/articles/openai-harmony
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence

from runners.engines.generate.text import overlap_length
from runners.tasks.answers.lark import Lark
from runners.tasks.answers.parts import AnswerPart, ParsedToolCall, Reasoning, dump_arguments
from runners.tasks.notations.notation import ToolFunction

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"

#: Tokens of the notation whose text the reader needs.
MARKS = (START, CHANNEL, CONSTRAIN, MESSAGE, END)

#: Tokens that end an answer.
ENDS = (CALL, RETURN)

REASONING_PARSER = "openai_gptoss"
TOOL_PARSER = "openai"

#: Marks that end the text of a message, and those of them that belong to the next one.
_AFTER_TEXT = (END, CALL, RETURN, START, CHANNEL)
_NEXT = (START, CHANNEL)

_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")


def is_harmony(template: str) -> bool:
    """Return true if a chat template writes channels."""
    return CHANNEL in template and MESSAGE in template


class HarmonyReader:
    """Parser of one answer.

    The analysis is reasoning. Text to the user is content, in any other channel. A message to a function is a call; a
    message to any other tool is reasoning.

    Args:
        names: names of the known functions; the text of a call of any other is content.
        in_content: the answer continues a text to the user.
        separates: the analysis is reasoning; if false, it is content.
    """

    def __init__(self, names: Collection[str], *, in_content: bool = False, separates: bool = True) -> None:
        self._analysis: type[Reasoning] | type[str] = Reasoning if separates else str
        self._names = frozenset(names)
        self._text = ""  # not returned yet
        self._in_header = not in_content
        self._first = not in_content
        self._kind: type[Reasoning] | type[str] | None = str  # None: a call
        self._name = ""
        self._returned: set[type] = set()
        self._joins = False  # a line break separates the next text from an earlier one of its kind

    def feed(self, text: str) -> list[AnswerPart]:
        """As `AnswerReader`."""
        self._text += text
        return self._parse(ended=False)

    def end(self, *, cut: bool = False) -> list[AnswerPart]:
        """As `AnswerReader`."""
        parts = self._parse(ended=True, cut=cut)
        if not self._in_header and self._kind is None:
            parts += self._make_call(self._text, cut)
        return parts

    def _parse(self, ended: bool, cut: bool = False) -> list[AnswerPart]:
        parts: list[AnswerPart] = []
        while self._text:
            if not (self._read_header(ended, cut) if self._in_header else self._read_text(parts, ended, cut)):
                break
        return parts

    def _read_header(self, ended: bool, cut: bool) -> bool:
        """Read up to the text of a message; return False if more text is needed."""
        if self._first:
            begun = self._text.lstrip()
            heads = (START, CHANNEL, MESSAGE, "to=")
            if not begun.startswith(heads):
                if any(head.startswith(begun) for head in heads) and (cut or not ended):
                    return False
                self._in_header = self._first = False  # an answer without channels
                return True
            self._first = False
        header, found, rest = self._text.partition(MESSAGE)
        if not found:
            return False
        self._text, self._in_header = rest, False
        channel, recipient = _CHANNEL_NAME.search(header), _RECIPIENT.search(header)
        if recipient is not None and recipient[1].startswith("functions."):
            self._kind, self._name = None, recipient[1].removeprefix("functions.")
        elif recipient is not None or (channel is not None and channel[1] == "analysis"):
            self._kind = self._analysis
        else:
            self._kind = str
        self._joins = self._kind in self._returned
        return True

    def _read_text(self, parts: list[AnswerPart], ended: bool, cut: bool) -> bool:
        """Read the text of a message; return False if more text is needed."""
        text = self._text
        found = [(at, mark) for mark in _AFTER_TEXT if (at := text.find(mark)) >= 0]
        if found:
            at, mark = min(found)
            parts += self._make_call(text[:at], cut=False) if self._kind is None else self._make_text(text[:at])
            self._text = text[at if mark in _NEXT else at + len(mark) :]
            self._in_header = True
            return True
        if self._kind is not None:
            held = max(overlap_length(text, mark) for mark in _AFTER_TEXT) if cut or not ended else 0
            parts += self._make_text(text[: len(text) - held])
            self._text = text[len(text) - held :]
        return False

    def _make_text(self, text: str) -> Sequence[AnswerPart]:
        if not text or self._kind is None:
            return []
        if self._joins:
            text, self._joins = f"\n{text}", False
        self._returned.add(self._kind)
        return [self._kind(text)]

    def _make_call(self, text: str, cut: bool) -> Sequence[AnswerPart]:
        try:
            arguments = json.loads(text)
            if isinstance(arguments, dict) and self._name in self._names:
                return [ParsedToolCall(self._name, dump_arguments(arguments))]
        except (ValueError, RecursionError):
            pass
        if cut:
            return []
        self._kind, self._joins = str, str in self._returned
        return self._make_text(text)


def write_grammar(
    lark: Lark, functions: Sequence[ToolFunction], *, required: bool, content: str | None, in_content: bool
) -> str:
    """Return the expression of an answer.

    Args:
        functions: functions that it may call.
        required: the answer must be a call.
        content: expression of the text to the user; None for any text.
        in_content: the answer continues a text to the user.
    """
    text = content if content is not None else lark.free
    if in_content and not functions:
        return text
    begin = lark.literal(f"{START}assistant")
    end = lark.literal(END)
    analysis = lark.define("analysis", f"{lark.literal(f'{CHANNEL}analysis{MESSAGE}')} {lark.until(END)} {begin}")
    answers = []
    if functions:
        for index, function in enumerate(functions):
            target, commentary = f"to=functions.{function.name}", lark.literal(f"{CHANNEL}commentary")
            form = f'(" json" | " code" | " "? {lark.literal(CONSTRAIN)} "json")?'
            head = f'({commentary} " {target}" {form} | " {target}" {commentary} {form})'
            lark.define(f"call_{index}", f"{head} {lark.literal(MESSAGE)} %json {function.json_rule()}")
        answers.append(lark.define("call", " | ".join(f"call_{index}" for index in range(len(functions)))))
    if not required:
        answers.append(f"{lark.literal(f'{CHANNEL}final{MESSAGE}')} {text}")
        if functions and content is None:
            head = lark.literal(f"{CHANNEL}commentary{MESSAGE}")
            preamble = lark.define("preamble", f"{head} {lark.until(END)} {begin}")
            return f"({analysis} | {preamble})* ({' | '.join(answers)})"
    if in_content:
        return f"{text} | {text} {end} {begin} {analysis}* ({' | '.join(answers)})"
    return f"{analysis}* ({' | '.join(answers)})"

"""Notations whose arguments are JSON, with the name within the JSON or before it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import regex

from runners.tasks.answers.lark import Lark, escape, quote
from runners.tasks.answers.parts import ParsedToolCall, dump_arguments
from runners.tasks.notations.notation import NAME, Notation, ToolFunction
from runners.tasks.tool_call_reader import CallScanner

#: Keys of the arguments, of all families.
_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonNotation(Notation):
    """Calls as `{"name": …, "arguments": …}`.

    Attributes:
        before, after_call: text before and after a call.
        arguments: key of the arguments.
        in_array: calls are elements of an array.
    """

    before: str = ""
    after_call: str = ""
    arguments: str = "arguments"
    in_array: bool = False

    @property
    def opening(self) -> str:
        """The first characters of a call's JSON."""
        return '[{"name":' if self.in_array else '{"name":'

    def create_scanner(self, trigger: str, start: int, functions: Mapping[str, Mapping[str, Any]]) -> CallScanner:
        """As `Notation`."""
        begin = start if trigger != self.opening else start - len(trigger)
        return JsonCallScanner(begin, functions, opening="[" if self.in_array else "{")

    def write_group(self, lark: Lark, several: bool, functions: int) -> str:
        """As `Notation`."""
        if self.in_array:
            more = ' (", " call)*' if several else ""
            return f'" "? "[" call{more} "]"'
        return f'"\\n"? call "\\n"? {lark.literal(self.after_call)}' if self.after_call else "call"

    def write_call(self, lark: Lark, index: int, function: ToolFunction) -> str:
        """As `Notation`."""
        head = f'{{"name": {quote(function.name)}, "{self.arguments}": '
        if lark.next_to_json:
            parts = ("{", '"name"', ":", " ", quote(function.name), ",", " ", quote(self.arguments), ":", " ")
            return f'{" ".join(map(quote, parts))} %json {function.json_rule()} "}}"'
        return f'{quote(head)} %json {function.json_rule()} "}}"'

    def write_opening(self, names: list[str]) -> str:
        """As `Notation`."""
        return rf"\s*{escape(self.opening)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedJsonNotation(Notation):
    """Calls whose name is before the JSON of their arguments.

    Attributes:
        call: text before the arguments, with `{name}` and `{number}`.
        after_call: text after the arguments.
        between_calls: text between two calls of a group.
        after_group: text after the last call of a group.
        heads: regular expressions between a start and the arguments.
    """

    call: str
    after_call: str = ""
    between_calls: str | None = None
    after_group: str = ""
    heads: Mapping[str, str]

    def create_scanner(self, trigger: str, start: int, functions: Mapping[str, Mapping[str, Any]]) -> CallScanner:
        """As `Notation`."""
        return JsonCallScanner(start, functions, opening="[", head=self.heads[trigger])

    def write_group(self, lark: Lark, several: bool, functions: int) -> str:
        """As `Notation`."""
        more = ""
        if several and self.between_calls is not None:
            between = lark.literal(self.between_calls) if self.between_calls else ""
            more = f" ({between} call)*"
        return f"call{more} {lark.literal(self.after_group) if self.after_group else ''}"

    def write_call(self, lark: Lark, index: int, function: ToolFunction) -> str:
        """As `Notation`."""
        head, number, rest = self.call.replace("{name}", function.name).partition("{number}")
        begin = f"{lark.literal(head)} /[0-9]{{1,3}}/ {lark.literal(rest)}" if number else lark.literal(head)
        end = f" {lark.literal(self.after_call)}" if self.after_call else ""
        return f"{begin} %json {function.json_rule()}{end}"


class JsonCallScanner(CallScanner):
    """Scanner of one JSON value with calls, or of a name and the JSON of its arguments.

    Args:
        functions: names of the known functions.
        opening: first character of JSON with the name.
        head: regular expression of the text before JSON without the name; None if the name is always in the JSON.
    """

    def __init__(self, start: int, functions: Collection[str], *, opening: str, head: str | None = None) -> None:
        super().__init__(start)
        self._functions = functions
        self._opening = opening
        self._head = None if head is None else regex.compile(head)
        self._name: str | None = None
        self._json: JsonScanner | None = None if head is not None else JsonScanner(start, opening)

    def scan(self, text: str) -> bool:
        """As `CallScanner`."""
        if self._json is None:
            begun = text[self.end :].lstrip()
            if not begun:
                return False
            match = self._head.match(text, self.end, partial=True) if self._head is not None else None
            if begun.startswith(self._opening):
                self._json = JsonScanner(self.end, self._opening)
            elif match is None:
                return True
            elif match.partial:
                return False
            else:
                self._name = match["name"]
                self._json = JsonScanner(match.end(), "{")
        complete = self._json.scan(text)
        self.end = self._json.end
        if complete and self._json.complete:
            self.calls = self._parse(text[self._json.start : self._json.end])
        return complete

    def _parse(self, text: str) -> list[ParsedToolCall]:
        """Parse calls in JSON; return none if any part of it is not a call."""
        try:
            value = json.loads(text, parse_constant=_reject_constant)
            if self._name is not None:
                value = {"name": self._name, "arguments": value}
            calls = [self._to_call(entry) for entry in (value if isinstance(value, list) else [value])]
        except (ValueError, RecursionError):
            return []
        return [call for call in calls if call is not None] if None not in calls else []

    def _to_call(self, value: Any) -> ParsedToolCall | None:
        if not isinstance(value, dict):
            return None
        name = value.get("name")
        arguments = next((value[key] for key in _ARGUMENTS if key in value), None)
        if not isinstance(name, str) or name not in self._functions or not isinstance(arguments, dict):
            return None
        return ParsedToolCall(name, dump_arguments(arguments))


class JsonScanner:
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


def _reject_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


#: Notation of Hermes, Qwen and SmolLM, and the default for all other models.
HERMES = JsonNotation(
    parsers=("hermes",),
    in_template=("<tool_call>",),
    starts=("<tool_call>",),
    trigger="<tool_call>",
    between="\n",
    after=("</tool_call>",),
    before="<tool_call>",
    after_call="</tool_call>",
)

#: Heads of Mistral's newer form, https://github.com/mistralai/mistral-common.
_MISTRAL_HEAD = rf"\s{{0,9}}{NAME}(?:\[CALL_ID\][A-Za-z0-9]{{1,64}})?(?:\[ARGS\]|(?={{))"


class _MistralNotation(JsonNotation):
    """Notation of Mistral's older models, which also reads the newer form."""

    __slots__ = ()

    def create_scanner(self, trigger: str, start: int, functions: Mapping[str, Mapping[str, Any]]) -> CallScanner:
        """As `Notation`."""
        return JsonCallScanner(start, functions, opening="[", head=_MISTRAL_HEAD)


MISTRAL = _MistralNotation(
    parsers=("mistral",),
    in_template=("[TOOL_CALLS]",),
    not_in_template="[ARGS]",
    starts=("[TOOL_CALLS]",),
    trigger="[TOOL_CALLS]",
    before="[TOOL_CALLS]",
    in_array=True,
    joins_calls=True,
    markers=("[ARGS]", "[CALL_ID]"),
)

MISTRAL_ARGS = NamedJsonNotation(
    parsers=("mistral",),
    in_template=("[TOOL_CALLS]", "[ARGS]"),
    starts=("[TOOL_CALLS]",),
    trigger="[TOOL_CALLS]",
    between="",
    markers=("[ARGS]", "[CALL_ID]"),
    call="{name}[ARGS]",
    heads={"[TOOL_CALLS]": _MISTRAL_HEAD},
)

LLAMA = JsonNotation(
    parsers=("llama3_json", "llama4_json"),
    in_template=('{"name": function name, "parameters": dictionary',),
    starts=('{"name":', "<|python_tag|>"),
    at_start_only=True,
    foreign=("<|python_tag|>",),
    arguments="parameters",
)

#: https://huggingface.co/ibm-granite/granite-3.3-8b-instruct
GRANITE = JsonNotation(
    parsers=("granite",),
    in_template=("<|tool_call|>",),
    starts=("<|tool_call|>", "<tool_call>"),
    trigger="<|tool_call|>",
    before="<|tool_call|>",
    after=("</tool_call>",),
    in_array=True,
    joins_calls=True,
)

_KIMI_HEAD = r"\s{0,9}(?:functions\.)?(?P<name>[A-Za-z0-9_.-]{1,64}?)(?::\d{1,9})?\s{0,9}<\|tool_call_argument_begin\|>"

#: https://huggingface.co/moonshotai/Kimi-K2-Instruct/blob/main/docs/tool_call_guidance.md
KIMI_K2 = NamedJsonNotation(
    parsers=("kimi_k2",),
    in_template=("<|tool_call_begin|>", "<|tool_call_argument_begin|>"),
    starts=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
    trigger="<|tool_calls_section_begin|>",
    after=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
    markers=("<|tool_call_argument_begin|>",),
    call="<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>",
    after_call="<|tool_call_end|>",
    between_calls="",
    joins_calls=True,
    after_group="<|tool_calls_section_end|>",
    heads={
        "<|tool_calls_section_begin|>": rf"\s{{0,9}}<\|tool_call_begin\|>{_KIMI_HEAD}",
        "<|tool_call_begin|>": _KIMI_HEAD,
    },
)


def _deepseek(words: str) -> str:
    """Return the name of a token of DeepSeek, with full-width bars and low blocks for spaces."""
    return f"<\uff5c{words.replace(' ', chr(0x2581))}\uff5c>"


_CALLS_BEGIN, _CALLS_END = _deepseek("tool calls begin"), _deepseek("tool calls end")
_CALL_BEGIN, _CALL_END, _CALL_SEP = _deepseek("tool call begin"), _deepseek("tool call end"), _deepseek("tool sep")
_DEEPSEEK_HEAD = rf"\s{{0,9}}function\s{{0,9}}{_CALL_SEP}{NAME}\s{{0,9}}```json"
_DEEPSEEK_31_HEAD = rf"\s{{0,9}}{NAME}\s{{0,9}}{_CALL_SEP}"

#: https://huggingface.co/deepseek-ai/DeepSeek-V3-0324; DeepSeek R1 writes the same.
DEEPSEEK_V3 = NamedJsonNotation(
    parsers=("deepseek_v3",),
    in_template=(_CALLS_BEGIN, "```json"),
    starts=(_CALLS_BEGIN, _CALL_BEGIN),
    trigger=_CALLS_BEGIN,
    after=("```", _CALL_END, _CALLS_END),
    markers=(_CALL_SEP,),
    call=f"{_CALL_BEGIN}function{_CALL_SEP}{{name}}\n```json\n",
    after_call=f"\n```{_CALL_END}",
    between_calls="\n",
    joins_calls=True,
    after_group=_CALLS_END,
    heads={_CALLS_BEGIN: rf"\s{{0,9}}{_CALL_BEGIN}{_DEEPSEEK_HEAD}", _CALL_BEGIN: _DEEPSEEK_HEAD},
)

#: https://huggingface.co/deepseek-ai/DeepSeek-V3.1
DEEPSEEK_V31 = NamedJsonNotation(
    parsers=("deepseek_v31",),
    in_template=(_CALLS_BEGIN,),
    starts=(_CALLS_BEGIN, _CALL_BEGIN),
    trigger=_CALLS_BEGIN,
    after=(_CALL_END, _CALLS_END),
    markers=(_CALL_SEP,),
    call=f"{_CALL_BEGIN}{{name}}{_CALL_SEP}",
    after_call=_CALL_END,
    between_calls="",
    joins_calls=True,
    after_group=_CALLS_END,
    heads={_CALLS_BEGIN: rf"\s{{0,9}}{_CALL_BEGIN}{_DEEPSEEK_31_HEAD}", _CALL_BEGIN: _DEEPSEEK_31_HEAD},
)

#: https://huggingface.co/meetkai/functionary-small-v3.1
FUNCTIONARY = NamedJsonNotation(
    parsers=("functionary",),
    in_template=("<function=",),
    not_in_template="<parameter=",
    starts=("<function=",),
    trigger="<function=",
    between="",
    after=("</function>",),
    call="{name}>",
    after_call="</function>",
    heads={"<function=": rf"{NAME}>"},
)

"""Notation of calls as a list of Python calls: `[f(a=1), g(b="x")]`.

Source: https://huggingface.co/meta-llama/Llama-4-Scout-17B-16E-Instruct
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import regex

from runners.tasks.answers.lark import Lark, escape, quote
from runners.tasks.answers.parts import ParsedToolCall, dump_arguments
from runners.tasks.notations.notation import NAME, Notation, ToolFunction
from runners.tasks.notations.values import find_types
from runners.tasks.tool_call_reader import CallScanner

#: Keywords that restrict a string, which a string in single quotes would escape.
_STRING_LIMITS = frozenset({"const", "enum", "format", "maxLength", "minLength", "pattern"})

#: String in single quotes, with escapes that Python and JSON share.
_SINGLE_QUOTED = r"/'([^'\\\x00-\x1f]|\\['\\nrt])*'/"

_ANY_VALUE = f'%json {{}} | "True" | "False" | "None" | {_SINGLE_QUOTED}'


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonicNotation(Notation):
    """Calls as a list of Python calls."""

    def create_scanner(self, trigger: str, start: int, functions: Mapping[str, Mapping[str, Any]]) -> CallScanner:
        """As `Notation`."""
        return _PythonCallScanner(start - 1 if trigger == "[" else start, functions)

    def write_group(self, lark: Lark, several: bool, functions: int) -> str:
        """As `Notation`."""
        more = ' ("," " "? call)*' if several else ""
        if lark.next_to_json:
            return f'"[" call{more} "]"'
        first = " | ".join(f"opening_{index}" for index in range(functions))
        return f'({first}){more} "]"'

    def write_call(self, lark: Lark, index: int, function: ToolFunction) -> str:
        """As `Notation`."""
        function.json_rule()  # checks the schema
        arguments = lark.define(f"arguments_{index}", self._write_arguments(lark, index, function))
        # One lexeme, because text that only begins in the same way is content.
        lark.define(f"opening_{index}", f"{quote(f'[{function.name}(')} {arguments}")
        return f"{quote(f'{function.name}(')} {arguments}"

    def _write_arguments(self, lark: Lark, index: int, function: ToolFunction) -> str:
        """Return the expression of the arguments and the bracket behind them."""
        properties = function.schema.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            if function.schema.get("additionalProperties", True) is False:
                return '")"'
            anything = f'/[A-Za-z_][A-Za-z0-9_]{{0,63}}/ "=" ({_ANY_VALUE})'
            return f'({anything} ("," " "? {anything})*)? ")"'
        required = function.schema.get("required")
        required = required if isinstance(required, list) else []
        # Rules of what may follow: `first_…` before any argument, `next_…` after one.
        keys = list(properties)
        first, following = '""', '""'
        for number in reversed(range(len(keys))):
            key = keys[number]
            argument = lark.define(f"argument_{index}_{number}", self._write_argument(function, key, properties[key]))
            then = following
            later = lark.define(f"next_{index}_{number}", f'"," " "? {argument} {then}')
            if key in required:
                first = lark.define(f"first_{index}_{number}", f"{argument} {then}")
                following = later
            else:
                first = lark.define(f"first_{index}_{number}", f"{argument} {then} | {first}")
                following = lark.define(f"optional_{index}_{number}", f"{later} | {then}")
        return f'{first} ")"'

    def _write_argument(self, function: ToolFunction, key: str, schema: Any) -> str:
        schema = schema if isinstance(schema, Mapping) else {}
        types = find_types(schema, function.schema)
        free = not schema.keys() & _STRING_LIMITS
        words = ['"True"', '"False"'] if "boolean" in types and free else []
        words += ['"None"'] if "null" in types and free else []
        words += [_SINGLE_QUOTED] if "string" in types and free and "$ref" not in schema else []
        # A choice among strings is written in single quotes, too.
        choices = schema.get("enum")
        words += [quote(repr(choice)) for choice in choices if _is_plain(choice)] if isinstance(choices, list) else []
        value = " | ".join([f"%json {function.value_rule(schema)}", *words])
        return f"{quote(key + '=')} ({value})"

    def write_opening(self, names: list[str]) -> str:
        """As `Notation`."""
        known = "|".join(escape(name) for name in names)
        return rf"\s*\[\s*({known})\s*\("


def _is_plain(choice: Any) -> bool:
    return isinstance(choice, str) and choice.isprintable() and not set(choice) & set("'\"\\")


class _PythonCallScanner(CallScanner):
    """Scanner of a list of Python calls."""

    _HEAD = regex.compile(rf"\s{{0,9}}\[\s{{0,9}}{NAME}\s{{0,9}}\(")
    _PLAIN = re.compile(r"[^\"'\[\](){}]*")
    _REST: ClassVar = {
        '"': re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL),
        "'": re.compile(r"(?:[^'\\]++|\\.)*+", re.DOTALL),
    }

    def __init__(self, start: int, functions: Mapping[str, Any]) -> None:
        super().__init__(start)
        self._functions = functions
        self._start = start
        self._begun = False
        self._depth = 0
        self._quote = ""

    def scan(self, text: str) -> bool:
        """As `CallScanner`."""
        if not self._begun:
            match = self._HEAD.match(text, self.end, partial=True)
            if match is not None and match.partial:
                return False
            self._begun = True
            if match is None or match["name"] not in self._functions:
                self.end = max(self.end, 1)
                return True
        while True:
            pattern = self._REST[self._quote] if self._quote else self._PLAIN
            match = pattern.match(text, self.end)
            assert match is not None, "this is a bug: the pattern matches the empty string as well"
            self.end = match.end()
            if self.end >= len(text) or (self._quote and text[self.end] == "\\"):
                return False
            character = text[self.end]
            self.end += 1
            if self._quote:
                self._quote = ""
            elif character in "\"'":
                self._quote = character
            elif character in "[({":
                self._depth += 1
            else:
                self._depth -= 1
            if self._depth <= 0 and not self._quote:
                self.calls = self._parse(text[self._start : self.end])
                return True

    def _parse(self, text: str) -> list[ParsedToolCall]:
        try:
            parsed = list(_Parser(text).parse_calls())
            if any(name not in self._functions for name, _ in parsed):
                return []
            return [ParsedToolCall(name, dump_arguments(values)) for name, values in parsed]
        except (ValueError, RecursionError):
            return []


class _Parser:
    """Parser of calls with literals of Python or JSON as arguments.

    Python's own parser reads neither JSON's words and escapes nor names with dots and dashes.
    """

    _SPACE = re.compile(r"\s*")
    _NAME = re.compile(r"[A-Za-z0-9_.-]+")
    _KEY = re.compile(r"[^\s=,()\[\]{}\"']+")
    _NUMBER = re.compile(r"[+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
    _STRINGS = re.compile(r'"(?:[^"\\]++|\\.)*+"|\'(?:[^\'\\]++|\\.)*+\'', re.DOTALL)
    _WORDS = (("True", True), ("False", False), ("None", None), ("true", True), ("false", False), ("null", None))

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse_calls(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield names and arguments.

        Raises:
            ValueError: the text is no list of calls.
        """
        self._expect("[")
        while True:
            yield self._read(self._NAME), self._parse_arguments()
            if not self._accept(","):
                break
        self._expect("]")

    def _parse_arguments(self) -> dict[str, Any]:
        self._expect("(")
        values: dict[str, Any] = {}
        while not self._accept(")"):
            key = self._read(self._KEY)
            self._expect("=")
            values[key] = self._parse_value()
            if not self._accept(","):
                self._expect(")")
                break
        return values

    def _parse_value(self) -> Any:
        self._skip_space()
        character = self._text[self._at : self._at + 1]
        if character in ("'", '"'):
            return _parse_string(self._read(self._STRINGS))
        if character == "[":
            return self._parse_list()
        if character == "{":
            return self._parse_object()
        for word, value in self._WORDS:
            if self._accept(word):
                return value
        number = self._read(self._NUMBER).replace("_", "")
        return float(number) if any(mark in number for mark in ".eE") else int(number)

    def _parse_list(self) -> list[Any]:
        self._expect("[")
        values = []
        while not self._accept("]"):
            values.append(self._parse_value())
            if not self._accept(","):
                self._expect("]")
                break
        return values

    def _parse_object(self) -> dict[str, Any]:
        self._expect("{")
        values = {}
        while not self._accept("}"):
            self._skip_space()
            key = _parse_string(self._read(self._STRINGS))
            self._expect(":")
            values[key] = self._parse_value()
            if not self._accept(","):
                self._expect("}")
                break
        return values

    def _skip_space(self) -> None:
        match = self._SPACE.match(self._text, self._at)
        self._at = match.end() if match is not None else self._at

    def _accept(self, text: str) -> bool:
        self._skip_space()
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise ValueError(f"{text} is missing")

    def _read(self, pattern: re.Pattern[str]) -> str:
        self._skip_space()
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError("this is no literal")
        self._at = match.end()
        return match[0]


def _parse_string(literal: str) -> str:
    if literal.startswith('"'):
        try:
            return str(json.loads(literal))
        except ValueError:
            pass  # only Python's
    try:
        return str(ast.literal_eval(literal))
    except (SyntaxError, ValueError, MemoryError):
        raise ValueError("this is no string") from None


PYTHONIC = PythonicNotation(
    parsers=("pythonic", "llama4_pythonic"),
    in_template=("func_name1(",),
    starts=("[", "<|python_start|>"),
    after=("<|python_end|>",),
    at_start_only=True,
    joins_calls=True,
    foreign=("<|python_start|>",),
)

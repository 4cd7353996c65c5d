"""Notations whose arguments are XML-like elements, one for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import regex

from runners.tasks.answers.lark import Lark
from runners.tasks.answers.parts import ParsedToolCall, dump_arguments
from runners.tasks.notations.notation import Notation, ToolFunction
from runners.tasks.notations.values import convert_text, find_types
from runners.tasks.tool_call_reader import CallScanner

#: Name of an argument that a schema does not name.
_ANY_KEY = r"/[^<>\n]{1,64}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class XmlNotation(Notation):
    """Calls with an element for each argument.

    A value is text, or JSON of the type that the schema allows.

    Attributes:
        call: text before the arguments, with `{name}`.
        open_value: text before a value, with `{key}`.
        close_value: text after a value.
        strips_lines: a line break at both ends of a value does not belong to it.
        between_values: text after `close_value`.
        after_call: text after the arguments.
        heads: regular expressions between a start and the arguments, with the name.
        next_value: regular expression of what begins a value, with `key`, or ends the call.
    """

    call: str
    open_value: str
    close_value: str
    strips_lines: bool
    between_values: str
    after_call: str
    heads: Mapping[str, str]
    next_value: str

    def create_scanner(self, trigger: str, start: int, functions: Mapping[str, Mapping[str, Any]]) -> CallScanner:
        """As `Notation`."""
        return _XmlCallScanner(start, self, trigger, functions)

    def write_group(self, lark: Lark, several: bool, functions: int) -> str:
        """As `Notation`."""
        return "call"

    def write_call(self, lark: Lark, index: int, function: ToolFunction) -> str:
        """As `Notation`."""
        function.json_rule()  # checks the schema
        properties = function.schema.get("properties")
        if isinstance(properties, Mapping) and properties:
            required = function.schema.get("required")
            required = required if isinstance(required, list) else []
            values = " ".join(
                f"{lark.define(f'value_{index}_{number}', self._write_value(lark, function, key, schema))}"
                f"{'' if key in required else '?'}"
                for number, (key, schema) in enumerate(properties.items())
            )
        elif function.schema.get("additionalProperties", True) is False:
            values = ""
        else:
            before, _, behind = self.open_value.partition("{key}")
            rest = lark.literal(self.between_values) if self.between_values else ""
            values = (
                f"({lark.literal(before)} {_ANY_KEY} {lark.literal(behind)} {lark.until(self.close_value)} {rest})*"
            )
        return f"{lark.literal(self.call.replace('{name}', function.name))} {values} {lark.literal(self.after_call)}"

    def _write_value(self, lark: Lark, function: ToolFunction, key: str, schema: Any) -> str:
        schema = schema if isinstance(schema, Mapping) else {}
        begin = lark.literal(self.open_value.replace("{key}", key))
        end = lark.literal(self.close_value + self.between_values)
        types = find_types(schema, function.schema)
        rule = function.value_rule(schema)
        if types and "string" not in types:
            return f"{begin} %json {rule} {end}"
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(choices, list) and all(isinstance(choice, str) and choice for choice in choices):
            return f"{begin} ({' | '.join(lark.literal(choice) for choice in choices)}) {end}"
        rest = lark.literal(self.between_values) if self.between_values else ""
        return f"{begin} {lark.until(self.close_value)} {rest}"


class _XmlCallScanner(CallScanner):
    """Scanner of a call of `XmlNotation`."""

    def __init__(
        self, start: int, notation: XmlNotation, trigger: str, functions: Mapping[str, Mapping[str, Any]]
    ) -> None:
        super().__init__(start)
        self._notation = notation
        self._functions = functions
        self._head = regex.compile(notation.heads[trigger])
        self._next = regex.compile(notation.next_value)
        self._name: str | None = None
        self._key: str | None = None
        self._value_start = start
        self._values: dict[str, str] = {}

    def scan(self, text: str) -> bool:
        """As `CallScanner`."""
        if self._name is None:
            match = self._head.match(text, self.end, partial=True)
            if match is None:
                return True
            if match.partial:
                return False
            self._name, self.end = match["name"], match.end()
        close = self._notation.close_value
        while True:
            if self._key is None:
                match = self._next.match(text, self.end, partial=True)
                if match is None:
                    return True
                if match.partial:
                    return False
                self.end = match.end()
                if match["key"] is None:
                    self.calls = self._make_calls(self._name)
                    return True
                self._key, self._value_start = match["key"].strip(), match.end()
            at = text.find(close.lstrip("\n"), self.end)
            if at < 0:
                self.end = max(self._value_start, len(text) - len(close) + 1)
                return False
            self._values[self._key] = self._strip(text[self._value_start : at])
            self._key, self.end = None, at + len(close.lstrip("\n"))

    def _strip(self, value: str) -> str:
        return value.removeprefix("\n").removesuffix("\n") if self._notation.strips_lines else value

    def _make_calls(self, name: str) -> list[ParsedToolCall]:
        if name not in self._functions:
            return []
        schema = self._functions[name]
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        values = {
            key: convert_text(value, find_types(properties.get(key, {}), schema)) for key, value in self._values.items()
        }
        return [ParsedToolCall(name, dump_arguments(values))]


#: https://huggingface.co/Qwen/Qwen3-Coder-30B-A3B-Instruct
QWEN3_CODER = XmlNotation(
    parsers=("qwen3_coder", "qwen3_xml"),
    in_template=("<function=", "<parameter="),
    starts=("<tool_call>", "<function="),
    trigger="<tool_call>",
    between="\n",
    after=("</tool_call>",),
    call="\n<function={name}>\n",
    open_value="<parameter={key}>\n",
    close_value="\n</parameter>",
    strips_lines=True,
    between_values="\n",
    after_call="</function>\n</tool_call>",
    heads={
        "<tool_call>": r"\s{0,9}<function=(?P<name>[^>\s]{1,64})>",
        "<function=": r"(?P<name>[^>\s]{1,64})>",
    },
    next_value=r"\s{0,99}(?:<parameter=(?P<key>[^>\n]{1,256})>|</function>)",
)

#: https://huggingface.co/zai-org/GLM-4.5
GLM_45 = XmlNotation(
    parsers=("glm45", "glm47"),
    in_template=("<arg_key>",),
    starts=("<tool_call>",),
    trigger="<tool_call>",
    between="\n",
    markers=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "</tool_call>"),
    call="{name}\n",
    open_value="<arg_key>{key}</arg_key>\n<arg_value>",
    close_value="</arg_value>",
    strips_lines=False,
    between_values="\n",
    after_call="</tool_call>",
    heads={"<tool_call>": r"\s{0,9}(?P<name>[^<\s]{1,64})(?=[<\s])"},
    next_value=r"\s{0,99}(?:<arg_key>(?P<key>[^<]{1,256})</arg_key>\s{0,99}<arg_value>|</tool_call>)",
)

"""Notation of tool calls: how a family of models writes them, and how they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_runtime.contract.errors import InvalidRequest
from runners.engines.generate.schemas import json_rule
from runners.tasks.answers.lark import Lark
from runners.tasks.tool_call_reader import CallScanner

#: Characters of a function's name.
NAME = r"(?P<name>[A-Za-z0-9_.-]{1,64})"


@dataclass(frozen=True, slots=True)
class ToolFunction:
    """Function that an answer may call.

    Attributes:
        field: field of the request with the schema of its arguments, for error messages.
        schema: schema of its arguments.
        lenient: ignore what cannot be enforced.
    """

    name: str
    field: str
    schema: Mapping[str, Any]
    lenient: bool

    @classmethod
    def from_tool(cls, index: int, tool: Mapping[str, Any]) -> ToolFunction:
        """Return the function of a tool of OpenAI's API.

        Raises:
            InvalidRequest: the arguments are no object.
        """
        function = tool["function"]
        field = f"tools[{index}].function.parameters"
        return cls(
            function["name"], field, arguments_schema(function, field), lenient=function.get("strict") is not True
        )

    def json_rule(self) -> str:
        """Return the text after `%json` for the arguments."""
        return json_rule(self.schema, self.field, lenient=self.lenient)

    def value_rule(self, schema: Any) -> str:
        """Return the text after `%json` for one argument; any JSON if its schema needs others.

        Call `json_rule` first, which checks the schema.
        """
        definitions = {key: self.schema[key] for key in ("$defs", "definitions") if key in self.schema}
        try:
            return json_rule({**definitions, **schema}, self.field, lenient=self.lenient)
        except (InvalidRequest, TypeError):
            return json_rule({}, self.field, lenient=self.lenient)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notation(ABC):
    """Notation of tool calls.

    Attributes:
        parsers: names of its parser, the first one vLLM's.
        in_template: texts of which the chat templates of these models contain all.
        not_in_template: text that they do not contain.
        starts: texts that begin a call for the reader; none is the start of another.
        trigger: text that begins a group of calls in a grammar; "" if only the calls themselves mark it.
        between: text between two groups; None if an answer has at most one group.
        after: texts that may follow a call and belong to it.
        at_start_only: calls appear only at the beginning of an answer.
        foreign: tokens that begin a call in another notation.
        markers: more texts that are tokens of this notation.
        joins_calls: a group may have several calls.
    """

    parsers: tuple[str, ...]
    in_template: tuple[str, ...]
    not_in_template: str | None = None
    starts: tuple[str, ...]
    trigger: str = ""
    between: str | None = None
    after: tuple[str, ...] = ()
    at_start_only: bool = False
    foreign: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    joins_calls: bool = False

    def is_in(self, template: str) -> bool:
        """Return true if a chat template is of this notation."""
        absent = self.not_in_template is None or self.not_in_template not in template
        return absent and all(text in template for text in self.in_template)

    @property
    def visible(self) -> tuple[str, ...]:
        """Texts that the reader must see, even if they are special tokens."""
        return (*self.starts, self.trigger, *self.after, *self.markers)

    @abstractmethod
    def create_scanner(self, trigger: str, start: int, functions: Mapping[str, Mapping[str, Any]]) -> CallScanner:
        """Create the scanner of the calls that begin before `start` with `trigger`.

        Args:
            functions: schemas of the known functions' arguments; a call of any other is content.
        """

    @abstractmethod
    def write_group(self, lark: Lark, several: bool, functions: int) -> str:
        """Return the expression of a group of calls after its trigger; `call` is one call.

        Args:
            several: the group may have several calls.
            functions: number of functions, whose calls were written before.
        """

    @abstractmethod
    def write_call(self, lark: Lark, index: int, function: ToolFunction) -> str:
        """Return the expression of a call of a function.

        Args:
            index: number of the function, for the names of rules.

        Raises:
            InvalidRequest: the arguments cannot be enforced.
        """

    def write_opening(self, names: list[str]) -> str:
        """Return the regular expression of the beginning of a call, for a notation without trigger."""
        raise NotImplementedError


def arguments_schema(function: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the schema of a function's arguments; without `parameters` it has no arguments.

    Source: https://platform.openai.com/docs/api-reference/chat/create

    Raises:
        InvalidRequest: the arguments are no object.
    """
    parameters = function.get("parameters")
    if parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if parameters.get("type", "object") != "object":
        raise InvalidRequest("must be 'object', which is what arguments are", field=f"{field}.type")
    return {"type": "object", **parameters}

"""Checks of JSON schemas before llguidance, which does not limit its input, compiles them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from hf_runtime.contract.errors import InvalidRequest
from runners.engines.generate.closed_objects import close_objects
from runners.engines.generate.schema_nodes import resolve_pointer
from runners.engines.generate.unenforceable import LEAST_NUMBER, drop_dangerous, drop_unenforceable

#: Cost limits of one grammar. With llguidance's defaults, one sequence could use half a gigabyte and block all others
#: for seconds: 40,000 times `a?` takes 23 s at its second token. 200,000 units of fuel take half a second.
LIMITS = LLParserLimits(
    max_lexer_states=50_000, initial_lexer_fuel=400_000, step_lexer_fuel=50_000, verbose_errors=False
)

#: The most characters of one schema. Patterns of 128,000 characters compile in half a second.
MAX_LENGTH = 128_000

#: llguidance recurses into nesting and references; at about 1,650 levels it overflows an 8 MiB stack, which ends the
#: process.
_MAX_LEVELS = 800

#: Intersecting patterns takes time exponential in their number, which llguidance does not limit: 16 patterns take a
#: second, 12 a hundredth of a second.
_MAX_INTERSECTED_PATTERNS = 8

#: White space between tokens of JSON, limited because models may otherwise generate white space without end.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"

#: Keywords that llguidance ignores; a reference next to them is not intersected with anything.
_ANNOTATIONS = frozenset(
    {"$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description", "example",
     "examples", "readOnly", "title", "writeOnly", "x-guidance"}
)  # fmt: skip


def json_rule(schema: Mapping[str, Any], field: str, *, lenient: bool = False, closed: bool = True) -> str:
    """Return the text after `%json` in a lark grammar for text that conforms to a schema.

    Args:
        field: field of the request with the schema, for error messages.
        lenient: ignore keywords and formats that cannot be enforced instead of rejecting them.
        closed: objects have only the properties that their schema names, unless it says otherwise.

    Raises:
        InvalidRequest: the schema is wrong, not supported, or too large to compile.
    """
    _check_depth(schema, field)
    own: dict[str, Any] = json.loads(json.dumps(schema))
    if lenient:
        drop_dangerous(own)
    _check_cost(own, field)
    if closed:
        close_objects(own)
    rule = _make_rule(own, field, lenient=lenient)
    wrong = _validate(rule)
    if wrong is not None and lenient:
        drop_unenforceable(own, lambda part: _validate(json.dumps({**part, "x-guidance": {"lenient": True}})))
        rule = _make_rule(own, field, lenient=lenient)
        wrong = _validate(rule)
    if wrong is not None:
        raise InvalidRequest(f"{one_line(wrong)}", field=field)
    return rule


def _make_rule(schema: Mapping[str, Any], field: str, *, lenient: bool) -> str:
    # The request's own "x-guidance" wins (https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md).
    options = {"whitespace_pattern": _WHITESPACE, "lenient": lenient}
    own_options = schema.get("x-guidance")
    rule = json.dumps(
        {**schema, "x-guidance": {**options, **own_options} if isinstance(own_options, Mapping) else options}
    )
    if len(rule) > MAX_LENGTH:
        raise InvalidRequest(f"has {len(rule)} characters, and no more than {MAX_LENGTH} are compiled", field=field)
    return rule


def _validate(rule: str) -> str | None:
    """Return why llguidance cannot compile a schema; None if it can."""
    try:
        wrong, messages = LLMatcher.validate_grammar_with_warnings(
            LLMatcher.grammar_from_json_schema(rule), limits=LIMITS
        )
    except ValueError as error:
        return str(error)
    return messages[0] if wrong else None


def one_line(reason: str) -> str:
    """Shorten a message of llguidance to one line of at most 300 characters."""
    line = " ".join(reason.replace("<non-verbose/>", "").split())
    return line if len(line) <= 300 else line[:299] + "…"


def _check_depth(schema: Mapping[str, Any], field: str) -> None:
    if _Levels(schema).total > _MAX_LEVELS:
        raise InvalidRequest(f"is nested too deeply, with its references more than {_MAX_LEVELS} levels", field=field)


def _check_cost(schema: Mapping[str, Any], field: str) -> None:
    levels = _Levels(schema)
    if any(number <= LEAST_NUMBER for node in levels.nodes for number in _numbers(node)):
        raise InvalidRequest(f"has a number of {LEAST_NUMBER:.0f} or less, which cannot be compiled", field=field)
    nodes = [node for node in levels.nodes if isinstance(node, Mapping)]
    patterns = {value for node in nodes for key in ("pattern", "format") if isinstance(value := node.get(key), str)}
    if len(patterns) > _MAX_INTERSECTED_PATTERNS and any(_intersects(node) for node in nodes):
        raise InvalidRequest(
            f"has {len(patterns)} patterns and formats; next to allOf, or a reference with more keywords, "
            f"there can be {_MAX_INTERSECTED_PATTERNS}",
            field=field,
        )


def _intersects(node: Mapping[str, Any]) -> bool:
    """Return whether several parts of the node are intersected for one value."""
    both = node.get("allOf")
    if isinstance(both, list) and len(both) > 1:
        return True
    sources = [key for key in ("$ref", "allOf", "anyOf", "oneOf") if key in node]
    return len(sources) > 1 or (bool(sources) and not node.keys() <= _ANNOTATIONS | set(sources))


class _Levels:
    """Depth of a schema, computed without recursion.

    Attributes:
        nodes: the objects and arrays of the schema.
        total: depth of the schema plus the depths of all references, as if all were nested in each other.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self.nodes: list[Any] = [schema]
        parents = [-1]
        for index, node in enumerate(self.nodes):  # the list grows during the loop
            for child in _children(node):
                self.nodes.append(child)
                parents.append(index)
        heights = [1] * len(self.nodes)
        for index in range(len(self.nodes) - 1, 0, -1):
            heights[parents[index]] = max(heights[parents[index]], heights[index] + 1)
        self._heights = {id(node): height for node, height in zip(self.nodes, heights, strict=True)}
        references = {node["$ref"] for node in self.nodes if isinstance(node, Mapping) and _is_reference(node)}
        self.total = heights[0] + sum(self._height(reference) for reference in references)

    def _height(self, reference: str) -> int:
        node = resolve_pointer(self._schema, reference)
        # Other kinds of references point to at most the height of the whole schema.
        return self._heights.get(id(node), self._heights[id(self._schema)])


def _values(node: Any) -> Iterable[Any]:
    """Return the values of an object or an array."""
    return node.values() if isinstance(node, Mapping) else node


def _children(node: Any) -> Iterator[Any]:
    return (value for value in _values(node) if isinstance(value, Mapping | list))


def _numbers(node: Any) -> Iterator[float]:
    """Yield the numbers in an object or an array, rounded to floats as llguidance does."""
    for value in _values(node):
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                yield float(value)
            except OverflowError:
                yield math.inf if value > 0 else -math.inf


def _is_reference(node: Mapping[str, Any]) -> bool:
    return isinstance(node.get("$ref"), str)

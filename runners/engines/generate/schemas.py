"""JSON schemas of requests, checked before llguidance compiles them: it trusts what it is given."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from llguidance import LLMatcher, LLParserLimits

from hf_runtime.contract.errors import InvalidRequest

#: What one grammar may cost. The defaults of llguidance would let a single sequence hold half a gigabyte, and keep all
#: others waiting for seconds: `a?` 40,000 times takes 23 s at its second token, 200,000 units of fuel half a second.
LIMITS = LLParserLimits(
    max_lexer_states=50_000, initial_lexer_fuel=400_000, step_lexer_fuel=50_000, verbose_errors=False
)

#: Characters of one schema. Patterns of 128,000 characters compile in half a second.
MAX_LENGTH = 128_000

#: llguidance follows nesting and references by recursion, and overflows an 8 MiB stack, which ends the process, at
#: about 1,650 levels.
_MAX_LEVELS = 800

#: Ranges of integers that begin there, after rounding, overflow its stack too.
_LEAST_NUMBER = -(2.0**63)

#: Intersections of patterns take time exponential in their number, which no limit of llguidance counts: 16 of them
#: take a second, 12 a hundredth.
_MAX_INTERSECTED_PATTERNS = 8

#: Between tokens of JSON; without a limit, a model that has lost its way writes white space to the end.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"

#: Keywords that llguidance gives no meaning; beside them a reference stands alone.
_ANNOTATIONS = frozenset(
    {"$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description", "example",
     "examples", "readOnly", "title", "writeOnly", "x-guidance"}
)  # fmt: skip


def json_rule(schema: Mapping[str, Any], field: str, *, lenient: bool = False) -> str:
    """What follows `%json` in a lark grammar for text that conforms to a schema.

    Args:
        field: where the schema stands in the request, for messages.
        lenient: ignore keywords and formats that cannot be enforced, rather than refuse them.

    Raises:
        InvalidRequest: the schema is wrong, not supported, or too large to compile.
    """
    _check_size(schema, field)
    # The request's own "x-guidance" wins (https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md).
    options = {"whitespace_pattern": _WHITESPACE, "lenient": lenient}
    own = schema.get("x-guidance")
    rule = json.dumps({**schema, "x-guidance": {**options, **own} if isinstance(own, Mapping) else options})
    if len(rule) > MAX_LENGTH:
        raise InvalidRequest(f"has {len(rule)} characters, and no more than {MAX_LENGTH} are compiled", field=field)
    try:
        wrong, messages = LLMatcher.validate_grammar_with_warnings(
            LLMatcher.grammar_from_json_schema(rule), limits=LIMITS
        )
    except ValueError as error:
        wrong, messages = True, [str(error)]
    if wrong:
        raise InvalidRequest(f"{one_line(messages[0])}", field=field)
    return rule


def one_line(reason: str) -> str:
    """A reason of llguidance as a part of an error's one sentence."""
    line = " ".join(reason.replace("<non-verbose/>", "").split())
    return line if len(line) <= 300 else line[:299] + "…"


def _check_size(schema: Mapping[str, Any], field: str) -> None:
    levels = _Levels(schema)
    if levels.total > _MAX_LEVELS:
        raise InvalidRequest(f"is nested too deeply, with its references more than {_MAX_LEVELS} levels", field=field)
    if any(number <= _LEAST_NUMBER for node in levels.nodes for number in _numbers(node)):
        raise InvalidRequest(f"has a number of {_LEAST_NUMBER:.0f} or less, which cannot be compiled", field=field)
    nodes = [node for node in levels.nodes if isinstance(node, Mapping)]
    patterns = {value for node in nodes for key in ("pattern", "format") if isinstance(value := node.get(key), str)}
    if len(patterns) > _MAX_INTERSECTED_PATTERNS and any(_intersects(node) for node in nodes):
        raise InvalidRequest(
            f"has {len(patterns)} patterns and formats; beside allOf, or a reference with more keywords, "
            f"there can be {_MAX_INTERSECTED_PATTERNS}",
            field=field,
        )


def _intersects(node: Mapping[str, Any]) -> bool:
    """Whether a value must conform to several parts of the node at once."""
    both = node.get("allOf")
    if isinstance(both, list) and len(both) > 1:
        return True
    sources = [key for key in ("$ref", "allOf", "anyOf", "oneOf") if key in node]
    return len(sources) > 1 or (bool(sources) and not node.keys() <= _ANNOTATIONS | set(sources))


class _Levels:
    """How deep a schema is, without recursion of its own.

    Attributes:
        nodes: the objects and arrays of the schema.
        total: their depth, and that of everything referred to, as if all stood inside one another.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self.nodes: list[Any] = [schema]
        above = [-1]
        for at, node in enumerate(self.nodes):  # grows on the way
            for child in _children(node):
                self.nodes.append(child)
                above.append(at)
        heights = [1] * len(self.nodes)
        for at in range(len(self.nodes) - 1, 0, -1):
            heights[above[at]] = max(heights[above[at]], heights[at] + 1)
        self._heights = {id(node): height for node, height in zip(self.nodes, heights, strict=True)}
        references = {node["$ref"] for node in self.nodes if isinstance(node, Mapping) and _is_reference(node)}
        self.total = heights[0] + sum(self._height(reference) for reference in references)

    def _height(self, reference: str) -> int:
        node: Any = self._schema
        for part in unquote(reference.removeprefix("#")).split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            else:
                node = node.get(part) if isinstance(node, Mapping) else None
        # What is referred to in other ways than by a path is at most as high as the whole.
        return self._heights.get(id(node), self._heights[id(self._schema)])


def _values(node: Any) -> Iterable[Any]:
    """Values of an object or an array."""
    return node.values() if isinstance(node, Mapping) else node


def _children(node: Any) -> Iterator[Any]:
    return (value for value in _values(node) if isinstance(value, Mapping | list))


def _numbers(node: Any) -> Iterator[float]:
    """Numbers in an object or an array, as llguidance rounds them."""
    for value in _values(node):
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                yield float(value)
            except OverflowError:
                yield math.inf if value > 0 else -math.inf


def _is_reference(node: Mapping[str, Any]) -> bool:
    return isinstance(node.get("$ref"), str)

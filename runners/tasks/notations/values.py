"""Types that a schema allows, and values of these types from text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: Mapping[type, str] = {
    str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array", type(None): "null",
}  # fmt: skip

#: The most references and alternatives that are followed: schemas may refer to themselves.
_MAX_STEPS = 200


def find_types(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """Return the JSON types that a schema allows; empty if it allows all.

    Args:
        root: schema in which references point.
    """
    found: set[str] = set()
    waiting, steps = [schema], 0
    while waiting and steps < _MAX_STEPS:
        node, steps = waiting.pop(), steps + 1
        if not isinstance(node, Mapping):
            return frozenset()
        kinds = list(_own_types(node))
        more = [part for key in ("anyOf", "oneOf") if isinstance(node.get(key), list) for part in node[key]]
        if isinstance(reference := node.get("$ref"), str):
            more.append(_resolve(reference, root))
        if not kinds and not more and isinstance(node.get("allOf"), list) and node["allOf"]:
            more.append(node["allOf"][0])
        if not kinds and not more:
            return frozenset()
        found.update(kinds)
        waiting += [] if kinds else more
    return frozenset(found)


def _own_types(node: Mapping[str, Any]) -> Iterator[str]:
    kind = node.get("type")
    if isinstance(kind, str):
        yield kind
    elif isinstance(kind, list):
        yield from (part for part in kind if isinstance(part, str))
    elif isinstance(values := [node["const"]] if "const" in node else node.get("enum"), list):
        yield from (_TYPES.get(type(value), "string") for value in values)
    elif isinstance(node.get("properties"), Mapping):
        yield "object"
    elif "items" in node:
        yield "array"


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    node: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def convert_text(text: str, types: frozenset[str]) -> Any:
    """Return the value that a text stands for: JSON of an allowed type, else the text itself.

    Args:
        types: allowed JSON types; empty allows all.
    """
    if types == {"string"}:
        return text
    plain = text.strip()
    try:
        value = json.loads(_JSON_WORDS.get(plain.lower(), plain), parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return text
    kind = _TYPES[type(value)]
    if kind == "string":
        # A quoted string is one where no other text is a string.
        return value if types and "string" not in types else text
    if not types or kind in types or (kind == "integer" and "number" in types):
        return value
    if kind == "number" and "integer" in types and value.is_integer():
        return int(value)
    return text


#: Words of Python and JSON, as models write them.
_JSON_WORDS = {"true": "true", "false": "false", "none": "null", "null": "null"}


def _reject_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")

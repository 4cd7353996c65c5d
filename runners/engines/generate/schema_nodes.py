"""Traversal of the schemas within a JSON schema, without recursion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

#: Keywords whose values are schemas, maps of schemas and lists of schemas.
_SCHEMAS = (
    "items", "additionalItems", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")


def walk_schemas(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schema and all schemas within it, the outer ones first; booleans are left out."""
    nodes = [schema]
    for node in nodes:  # the list grows during the loop
        nodes.extend(_find_children(node))
    return nodes


def _find_children(node: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name in _SCHEMAS:
        if isinstance(child := node.get(name), dict):
            yield child
    for name in _MAPS:
        if isinstance(children := node.get(name), dict):
            yield from (child for child in children.values() if isinstance(child, dict))
    for name in _LISTS:
        if isinstance(listed := node.get(name), list):
            yield from (child for child in listed if isinstance(child, dict))


def resolve_pointer(schema: Mapping[str, Any], reference: str) -> Any:
    """Return the target of a reference such as `#/$defs/name`; None without one."""
    if not reference.startswith("#") or (len(reference) > 1 and not reference.startswith("#/")):
        return None
    node: Any = schema
    for part in unquote(reference.removeprefix("#")).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            node = node.get(part) if isinstance(node, Mapping) else None
    return node

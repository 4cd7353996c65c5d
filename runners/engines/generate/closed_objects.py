"""Closing of objects whose schema does not say which other properties they may have.

JSON Schema allows any others, and small models then add properties without end. Engines with guided decoding therefore
allow only the named ones: xgrammar in its strict mode, which vLLM uses
(https://xgrammar.mlc.ai/docs/api/python/grammar.html), and llama.cpp
(https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runners.engines.generate.schema_nodes import resolve_pointer, walk_schemas

#: Keywords by which a client says which other properties an object may have.
_EXPLICIT = ("additionalProperties", "unevaluatedProperties")

#: Keywords whose schemas hold for the same value as the schema that they are in.
_BRANCHES = ("allOf", "anyOf", "oneOf")
_CONDITIONS = ("if", "then", "else")


def close_objects(schema: dict[str, Any]) -> None:
    """Close the open objects of a schema, in place.

    Several schemas that hold for one object together, as in `allOf`, are closed together: with the names of all.
    """
    nodes = walk_schemas(schema)
    parts = {id(part) for node in nodes if _is_combined(node) for part in _find_parts(schema, node)}
    for node in nodes:
        if id(node) in parts or any(name in node for name in _EXPLICIT):
            continue
        reached = _find_parts(schema, node)
        if not (_is_combined(node) or any(id(part) in parts for part in reached)):
            reached = []  # alternatives, or a reference, which are closed by themselves
            if not isinstance(node.get("properties"), dict):
                continue
        _close(node, [node, *reached])


def _close(node: dict[str, Any], together: list[dict[str, Any]]) -> None:
    if any(name in part for part in together for name in _EXPLICIT):
        return
    declared = [part["properties"] for part in together if isinstance(part.get("properties"), dict)]
    if not declared:
        return
    names = [name for properties in declared for name in properties]
    for part in together:
        required = part.get("required")
        names += [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    least = [part["minProperties"] for part in together if isinstance(part.get("minProperties"), int)]
    if max(least, default=0) > len(set(names)):
        return
    own: Any = node.get("properties")
    own = own if isinstance(own, dict) else {}
    node["properties"] = {**own, **{name: True for name in names if name not in own}}
    node["additionalProperties"] = False


def _is_combined(node: dict[str, Any]) -> bool:
    """Return whether more than one schema with names may hold for the same object."""
    sources = sum(name in node for name in (*_BRANCHES, "$ref", "properties"))
    several = isinstance(node.get("allOf"), list) and len(node["allOf"]) > 1
    return sources > 1 or several or ("properties" in node and any(name in node for name in _CONDITIONS))


def _find_parts(schema: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas that hold for the same value as `node`, its references included."""
    found: list[dict[str, Any]] = []
    seen = {id(node)}
    waiting = [node]
    while waiting:
        for part in _find_direct_parts(schema, waiting.pop()):
            if id(part) not in seen:
                seen.add(id(part))
                found.append(part)
                waiting.append(part)
    return found


def _find_direct_parts(schema: dict[str, Any], node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    candidates: list[Any] = [node.get(name) for name in _CONDITIONS]
    if isinstance(node.get("$ref"), str):
        candidates.append(resolve_pointer(schema, node["$ref"]))
    for name in _BRANCHES:
        if isinstance(node.get(name), list):
            candidates += node[name]
    if isinstance(node.get("dependentSchemas"), dict):
        candidates += node["dependentSchemas"].values()
    return (candidate for candidate in candidates if isinstance(candidate, dict))

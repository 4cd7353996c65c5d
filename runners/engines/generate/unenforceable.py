"""Removal of keywords that llguidance cannot enforce, each at the smallest schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runners.engines.generate.schema_nodes import walk_schemas

#: Integer ranges and values that begin here or lower, after rounding, overflow llguidance's stack.
LEAST_NUMBER = -(2.0**63)

#: Keywords that are tried alone, with the types of the values they are about.
_KEYWORDS: Mapping[str, tuple[str, ...]] = {
    "pattern": ("string",), "minLength": ("string",), "maxLength": ("string",),
    "minimum": ("integer", "number"), "maximum": ("integer", "number"), "multipleOf": ("integer", "number"),
    "exclusiveMinimum": ("integer", "number"), "exclusiveMaximum": ("integer", "number"),
    "minItems": ("array",), "maxItems": ("array",), "minProperties": ("object",), "maxProperties": ("object",),
}  # fmt: skip

_RANGES = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")

#: Keywords that describe values and limit none.
_EXAMPLES = ("default", "examples", "example")

#: Different values of keywords that are tried alone, at most: each attempt may take as long as a whole schema.
_MAX_ATTEMPTS = 64

#: Returns the reason why a schema cannot be enforced; None if it can.
Validate = Callable[[Mapping[str, Any]], str | None]


def drop_dangerous(schema: dict[str, Any]) -> None:
    """Drop, in place, numbers that would end the process, and keywords that are null."""
    for node in walk_schemas(schema):
        for name in [name for name, value in node.items() if value is None and name != "const"]:
            del node[name]
        for name in _EXAMPLES:
            node.pop(name, None)
        for name in _RANGES:
            if _is_too_low(node.get(name)):
                del node[name]
        if _is_too_low(node.get("const")):
            del node["const"]
        if isinstance(values := node.get("enum"), list):
            node["enum"] = [value for value in values if not _is_too_low(value)]
            if values and not node["enum"]:
                del node["enum"]
        for name in _COUNTS:
            if isinstance(count := node.get(name), float) and count.is_integer():
                node[name] = int(count)


def drop_unenforceable(schema: dict[str, Any], validate: Validate) -> None:
    """Drop, in place, each keyword that cannot be enforced even alone.

    A schema that is wrong, or that no value conforms to, stays unchanged.
    """
    attempts = _Attempts(validate)
    root_id = schema.get("$id")
    if isinstance(root_id, str) and "://" not in root_id:
        for node in walk_schemas(schema):
            node.pop("$id", None)
    if "$schema" in schema and attempts.fails({"$schema": schema["$schema"]}):
        del schema["$schema"]
    for node in walk_schemas(schema):
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#") and attempts.fails({"$ref": reference}):
            del node["$ref"]
        for name, types in _KEYWORDS.items():
            if _is_meant(name, node.get(name)) and any(
                attempts.fails({"type": kind, name: node[name]}) for kind in _common(node, types)
            ):
                del node[name]
        limits = {name: node[name] for name in _RANGES if name in node}
        if len(limits) > 1 and any(
            attempts.fails({"type": kind, **limits}) for kind in _common(node, ("integer", "number"))
        ):
            for name in limits:
                del node[name]
        _drop_patterns_of_names(node, attempts)


def _drop_patterns_of_names(node: dict[str, Any], attempts: _Attempts) -> None:
    patterns = node.get("patternProperties")
    if not isinstance(patterns, dict):
        return
    kept = {name: child for name, child in patterns.items() if not attempts.fails(_names_only([name]))}
    if len(kept) > 1 and attempts.fails(_names_only(kept)):
        kept = {}
    if len(kept) < len(patterns):
        # Names that a dropped pattern allowed are other ones now.
        node["patternProperties"], node["additionalProperties"] = kept, True


def _names_only(patterns: Iterable[str]) -> dict[str, Any]:
    return {"type": "object", "patternProperties": dict.fromkeys(patterns, True)}


class _Attempts:
    """Schemas that were tried alone, each once."""

    def __init__(self, validate: Validate) -> None:
        self._validate = validate
        self._tried: dict[str, bool] = {}

    def fails(self, schema: Mapping[str, Any]) -> bool:
        """Return whether a schema cannot be enforced, although values may conform to it."""
        key = json.dumps(schema)
        if key not in self._tried:
            if len(self._tried) >= _MAX_ATTEMPTS:
                return False
            reason = self._validate(schema)
            self._tried[key] = reason is not None and not reason.startswith("Unsatisfiable")
        return self._tried[key]


def _common(node: Mapping[str, Any], types: tuple[str, ...]) -> list[str]:
    """Return the types among `types` that values of the node may have."""
    own = node.get("type")
    declared = [own] if isinstance(own, str) else own if isinstance(own, list) else types
    return [kind for kind in types if kind in declared]


def _is_meant(name: str, value: Any) -> bool:
    """Return whether a keyword has a value of its type; another one is a mistake of the client."""
    if name == "pattern":
        return isinstance(value, str)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and (name not in _COUNTS or (float(value).is_integer() and value >= 0))


def _is_too_low(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return float(value) <= LEAST_NUMBER
    except OverflowError:
        return value < 0

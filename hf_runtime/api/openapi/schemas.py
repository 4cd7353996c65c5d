"""JSON schemas of Python types, each stored once among the document's components."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

Json = dict[str, Any]

_REFERENCE = "#/components/schemas/{model}"


class _Schemas(GenerateJsonSchema):
    """Pydantic's generator without the titles of fields and without defaults that are null."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> Json:
        described = super().default_schema(schema)
        return {key: value for key, value in described.items() if (key, value) != ("default", None)}


@cache
def _make_schema(kind: Any) -> tuple[Json, Mapping[str, Json]]:
    """Return the schema of a type, and the schemas that it refers to."""
    schema = TypeAdapter(kind).json_schema(ref_template=_REFERENCE, schema_generator=_Schemas)
    return schema, schema.pop("$defs", {})


def _open(schema: Any, prefix: str) -> Any:
    """Return a schema whose objects may have more fields, with a prefix before references."""
    if isinstance(schema, list):
        return [_open(each, prefix) for each in schema]
    if not isinstance(schema, dict):
        return schema
    start = _REFERENCE.format(model="")
    return {
        key: value.replace(start, start + prefix) if key == "$ref" else _open(value, prefix)
        for key, value in schema.items()
        if not (key == "additionalProperties" and "properties" in schema)
    }


class Schemas:
    """Schemas of a document.

    Attributes:
        components: schemas by name, added by `of` and `named`.
    """

    def __init__(self) -> None:
        self.components: dict[str, Json] = {}

    def of(self, kind: Any) -> Json:
        """Return the schema of a type; a reference if it is a class with fields."""
        schema, inner = _make_schema(kind)
        for name, definition in inner.items():
            self._add(name, definition)
        return self.named(kind.__name__, schema) if "properties" in schema else schema

    def of_open(self, kind: Any, prefix: str) -> Json:
        """Return the schema of a class that accepts unknown fields on all levels.

        Args:
            prefix: of the names of these objects, whose closed schemas may be in the document too.
        """
        schema, inner = _make_schema(kind)
        for name, definition in inner.items():
            self._add(prefix + name, _open(definition, prefix))
        return self.named(kind.__name__, _open(schema, prefix))

    def named(self, name: str, schema: Json) -> Json:
        """Store a schema under a name, and return a reference to it."""
        self._add(name, schema)
        return {"$ref": _REFERENCE.format(model=name)}

    def narrow(self, name: str, **properties: Json) -> None:
        """Replace properties of an object's schema by narrower ones."""
        schema = self.components[name]
        self.components[name] = {**schema, "properties": {**schema["properties"], **properties}}

    def _add(self, name: str, schema: Json) -> None:
        assert self.components.setdefault(name, schema) == schema, f"this is a bug: two schemas are named {name}"

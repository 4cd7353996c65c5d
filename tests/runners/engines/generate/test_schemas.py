"""Promises: open objects end, and what cannot be enforced is dropped where the schema is not strict, and only there."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema_rs
import pytest
import torch

from hf_runtime.contract.errors import InvalidRequest
from runners.engines.generate.closed_objects import close_objects
from runners.engines.generate.grammar import Grammar, GrammarCompiler
from runners.engines.generate.schemas import json_rule
from tests.tiny import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
NAMES = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(TOKENIZER, len(TOKENIZER), [0])


def _rule(schema: dict[str, Any], **options: Any) -> dict[str, Any]:
    rule: dict[str, Any] = json.loads(json_rule(schema, "schema", **options))
    del rule["x-guidance"]
    return rule


def _write(grammar: Grammar, seed: int, patience: int = 60) -> str:
    """A text drawn at random under the mask; one that grows long is led to its end."""
    chance, matcher, tokens = random.Random(seed), grammar.matcher(), list[int]()
    ends = {TOKENIZER.convert_tokens_to_ids(character) for character in '"}],01nulea'}
    while not matcher.finished:
        logits = torch.zeros(len(TOKENIZER))
        matcher.mask(logits)
        allowed = set(torch.nonzero(logits == 0).flatten().tolist())
        if 0 in allowed and len(tokens) > patience:
            break
        if len(tokens) > patience:
            allowed = allowed & ends or allowed
        token = chance.choice(sorted(allowed))
        if token == 0:
            break
        matcher.accept(token)
        tokens.append(token)
        assert len(tokens) < 2000
    return str(TOKENIZER.decode(tokens))


# Open objects


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    close_objects(schema)
    return schema


def test_an_object_that_names_its_properties_has_no_others() -> None:
    assert _closed({**NAMES})["additionalProperties"] is False
    nested = _closed({"type": "array", "items": {"anyOf": [{**NAMES}, {"type": "null"}]}})
    assert nested["items"]["anyOf"][0]["additionalProperties"] is False
    assert "additionalProperties" not in nested["items"]
    defined = _closed({"$ref": "#/$defs/x", "$defs": {"x": {**NAMES}}})
    assert defined["$defs"]["x"]["additionalProperties"] is False


@pytest.mark.parametrize("given", [True, False, {"type": "string"}])
def test_what_a_client_says_of_other_properties_stays(given: Any) -> None:
    assert _closed({**NAMES, "additionalProperties": given})["additionalProperties"] == given


def test_an_object_that_names_nothing_stays_open() -> None:
    assert _closed({"type": "object"}) == {"type": "object"}
    assert _closed({"type": "object", "minProperties": 2, **NAMES}).get("additionalProperties") is None


def test_a_property_without_a_schema_can_be_required() -> None:
    closed = _closed({"type": "object", "properties": {"a": {}}, "required": ["a", "b"]})
    assert (set(closed["properties"]), closed["additionalProperties"]) == ({"a", "b"}, False)


COMBINED: dict[str, dict[str, Any]] = {
    "all of two": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]
    },
    "extended definition": {
        "allOf": [{"$ref": "#/$defs/base"}],
        "properties": {"b": {"type": "boolean"}},
        "required": ["b"],
        "$defs": {"base": NAMES},
    },
    "reference with more keywords": {
        "$ref": "#/$defs/base",
        "properties": {"b": {"type": "boolean"}},
        "required": ["b"],
        "$defs": {"base": NAMES},
    },
    "alternatives of what is required": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
}


@pytest.mark.parametrize("schema", COMBINED.values(), ids=COMBINED.keys())
def test_objects_of_several_schemas_are_closed_together(compiler: GrammarCompiler, schema: dict[str, Any]) -> None:
    grammar = compiler.compile(f"start: %json {json_rule(schema, 'schema', lenient=True)}")
    for seed in range(6):
        value = json.loads(_write(grammar, seed))
        jsonschema_rs.validate(schema, value)
        assert set(value) <= {"a", "b"}


def test_a_definition_that_is_extended_elsewhere_is_closed_where_it_is_not() -> None:
    closed = _closed(
        {
            "type": "object",
            "properties": {
                "plain": {"$ref": "#/$defs/base"},
                "more": {"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {}}}]},
            },
            "$defs": {"base": {**NAMES}},
        }
    )
    assert closed["properties"]["plain"]["additionalProperties"] is False
    assert set(closed["properties"]["plain"]["properties"]) == {"a"}
    assert set(closed["properties"]["more"]["properties"]) == {"a", "b"}
    assert "additionalProperties" not in closed["$defs"]["base"]


def test_a_schema_that_contains_itself_is_closed() -> None:
    node = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    assert _closed(node)["additionalProperties"] is False
    assert _closed({"allOf": [{"$ref": "#"}, {"$ref": "#"}]})


# What cannot be enforced


@pytest.mark.parametrize(
    ("node", "kept"),
    [
        ({"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}, {"type": "string"}),
        ({"type": "string", "pattern": r"(?<=a)b", "maxLength": 5}, {"type": "string", "maxLength": 5}),
        ({"type": "string", "pattern": r"(a)\1"}, {"type": "string"}),
        ({"type": "string", "pattern": r"\bword\b"}, {"type": "string"}),
        ({"pattern": r"(?=a)"}, {}),
        ({"type": "string", "pattern": "^a+$"}, {"type": "string", "pattern": "^a+$"}),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, {"type": "integer", "maximum": 2**63 - 1}),
        ({"type": "integer", "minimum": -(2**63), "default": -(2**63)}, {"type": "integer"}),
        ({"type": "integer", "minimum": 2**63 - 1}, {"type": "integer"}),
        ({"type": "number", "minimum": -3.4028235e38, "maximum": 3.4028235e38}, {"type": "number"}),
        ({"type": "number", "minimum": 0, "maximum": 3.4028235e38}, {"type": "number", "minimum": 0}),
        ({"type": ["number", "null"], "exclusiveMaximum": 1e300}, {"type": ["number", "null"]}),
        ({"type": "number", "multipleOf": 1e-20}, {"type": "number"}),
        ({"type": "integer", "multipleOf": 2**40}, {"type": "integer"}),
        ({"enum": [1, -(2**63)]}, {"enum": [1]}),
        ({"type": "integer", "const": -(2**63)}, {"type": "integer"}),
        ({"type": "string", "minLength": 10**12}, {"type": "string"}),
        ({"type": "string", "maxLength": 2**64}, {"type": "string"}),
        ({"type": "string", "maxLength": 5.0}, {"type": "string", "maxLength": 5}),
        ({"type": "array", "minItems": 2**64}, {"type": "array"}),
        ({"$ref": "https://example.com/schema.json"}, {}),
        (
            {"type": "object", "patternProperties": {"^(?!x)": {"type": "string"}}, "additionalProperties": False},
            {"type": "object", "patternProperties": {}, "additionalProperties": True},
        ),
        (
            {"type": "object", "patternProperties": {"^x": {"type": "string"}, "x$": {"type": "integer"}}},
            {"type": "object", "patternProperties": {}, "additionalProperties": True},
        ),
        ({"type": "string", "maxLength": None, "title": None}, {"type": "string"}),
    ],
)
def test_only_the_keyword_that_cannot_be_enforced_is_dropped(
    compiler: GrammarCompiler, node: dict[str, Any], kept: dict[str, Any]
) -> None:
    schema = {"type": "object", "properties": {"a": node, "b": {"type": "string", "pattern": "^b$"}}, "required": ["b"]}
    expected = {**schema, "properties": {**schema["properties"], "a": kept}, "additionalProperties": False}  # type: ignore[dict-item]
    assert _rule(schema, lenient=True) == expected
    compiler.compile(f"start: %json {json_rule(schema, 'schema', lenient=True)}")


@pytest.mark.parametrize(
    "node",
    [
        {"type": "string", "pattern": "(?!a)b"},
        {"type": "integer", "minimum": -(2**63)},
        {"type": "number", "maximum": 3.4028235e38},
        {"type": "array", "uniqueItems": True},
        {"$ref": "https://example.com/schema.json"},
    ],
)
def test_a_strict_schema_that_cannot_be_enforced_is_refused(node: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema: "):
        json_rule({"type": "object", "properties": {"a": node}}, "schema")


@pytest.mark.parametrize(
    "node",
    [
        {"type": "strin"},
        {"$ref": "#/$defs/none"},
        {"type": "integer", "minimum": "3"},
        {"type": "string", "minLength": -1},
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"enum": []},
    ],
)
def test_a_schema_that_is_wrong_is_refused_also_where_it_is_not_strict(node: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema: "):
        json_rule({"type": "object", "properties": {"a": node}, "required": ["a"]}, "schema", lenient=True)


def test_a_pattern_in_a_definition_is_dropped_there() -> None:
    schema = {"$ref": "#/definitions/b", "definitions": {"b": {"type": "string", "pattern": "(?=a)", "minLength": 1}}}
    assert _rule(schema, lenient=True)["definitions"] == {"b": {"type": "string", "minLength": 1}}


def test_a_schema_of_an_unknown_dialect_is_compiled() -> None:
    assert _rule({"$schema": "http://example.com/own", "type": "object"}, lenient=True) == {"type": "object"}


# Formats


def test_a_schema_next_to_json_object_is_enforced(compiler: GrammarCompiler) -> None:
    for kind in ("json_object", "json_schema"):
        grammar = compiler.response_format({"type": kind, "schema": NAMES, "strict": False})
        assert grammar is not None
        assert all(set(json.loads(_write(grammar, seed))) == {"a"} for seed in range(4))
    with pytest.raises(InvalidRequest, match=r"^response_format.json_schema: "):
        compiler.response_format({"type": "json_object", "json_schema": {"schema": NAMES}})
    with pytest.raises(InvalidRequest, match=r"^response_format.schema: "):
        compiler.response_format({"type": "json_object", "schema": "x"})
    with pytest.raises(InvalidRequest, match=r"^response_format.schema: .*uniqueItems"):
        compiler.response_format({"type": "json_object", "schema": {"uniqueItems": True}, "strict": True})


def test_objects_stay_open_where_nothing_is_said_of_strictness(compiler: GrammarCompiler) -> None:
    grammar = compiler.response_format({"type": "json_schema", "json_schema": {"schema": NAMES}})
    assert grammar is not None
    matcher = grammar.matcher()
    for token in TOKENIZER('{"a": true, "zz')["input_ids"]:
        matcher.accept(token)

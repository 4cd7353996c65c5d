"""Promise: constrained text conforms and ends exactly where it may; no grammar does harm."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Collection
from typing import Any

import pytest
import torch

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest
from runners.engines.generate.grammar import Grammar, GrammarCompiler
from tests.tiny import byte_level_tokenizer, wordpiece_tokenizer

TOKENIZER = byte_level_tokenizer()
SIZE = len(TOKENIZER)
EOS = 0
FORBIDDEN = float("-inf")


def _token(name: str) -> int:
    token = TOKENIZER.convert_tokens_to_ids(name)
    assert isinstance(token, int)
    return token


def _text(tokens: list[int]) -> str:
    return str(TOKENIZER.decode(tokens))


def _compiler(vocab_size: int = SIZE, eos: Collection[int] = (EOS,)) -> GrammarCompiler:
    return GrammarCompiler(TOKENIZER, vocab_size, eos)


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return _compiler()


def _schema(compiler: GrammarCompiler, schema: dict[str, Any], **more: Any) -> Grammar:
    grammar = compiler.response_format({"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}})
    assert grammar is not None
    return grammar


def _allowed(grammar_or_text: Any, size: int = SIZE) -> set[int]:
    logits = torch.zeros(size)
    grammar_or_text.mask(logits)
    return set(torch.nonzero(logits == 0).flatten().tolist())


def _draw_text(grammar: Grammar, seed: int, patience: int = 60) -> str:
    """Draw text at random under the mask; a long one is led to its end."""
    chance, matcher, tokens = random.Random(seed), grammar.matcher(), list[int]()
    ends = {_token(character) for character in '"}],01nulea'}
    while not matcher.finished:
        allowed = _allowed(matcher)
        if EOS in allowed and len(tokens) > patience:
            break
        if len(tokens) > patience:
            allowed = allowed & ends or allowed
        token = chance.choice(sorted(allowed))
        if token == EOS:
            break
        matcher.accept(token)
        tokens.append(token)
        assert len(tokens) < 2000
    return _text(tokens)


# Generated text


SCHEMAS: list[tuple[dict[str, Any], Any]] = [
    (
        {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer", "minimum": 3}},
            "required": ["name", "age"],
            "additionalProperties": False,
        },
        lambda value: set(value) == {"name", "age"} and len(value["name"]) <= 9 and value["age"] >= 3,
    ),
    ({"enum": ["red", 7, None]}, lambda value: value in ("red", 7, None)),
    (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
        lambda value: 2 <= len(value) <= 4 and all(isinstance(item, bool) for item in value),
    ),
    (
        {
            "$ref": "#/$defs/node",
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "integer"},
                        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    },
                    "required": ["id", "next"],
                    "additionalProperties": False,
                }
            },
        },
        lambda value: set(value) == {"id", "next"},
    ),
    ({"type": "string", "pattern": "^[ab]{2}-[0-9]+$"}, lambda value: re.fullmatch("[ab]{2}-[0-9]+", value)),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "conforms"), SCHEMAS)
def test_any_drawn_text_conforms_to_the_schema(
    compiler: GrammarCompiler, schema: dict[str, Any], conforms: Any
) -> None:
    grammar = _schema(compiler, schema)
    for seed in range(8):
        text = _draw_text(grammar, seed)
        assert conforms(json.loads(text)), text


def test_any_json_object_can_be_requested(compiler: GrammarCompiler) -> None:
    grammar = compiler.response_format({"type": "json_object"})
    assert grammar is not None
    for seed in range(8):
        assert isinstance(json.loads(_draw_text(grammar, seed)), dict)


def test_a_regular_expression_can_be_requested(compiler: GrammarCompiler) -> None:
    grammar = compiler.response_format({"type": "regex", "regex": "(yes|no), [0-9/]{2,4}"})
    assert grammar is not None
    assert all(re.fullmatch("(yes|no), [0-9/]{2,4}", _draw_text(grammar, seed)) for seed in range(8))


def test_text_is_free_unless_a_format_is_requested(compiler: GrammarCompiler) -> None:
    assert compiler.response_format({"type": "text"}) is None


def test_white_space_in_json_comes_to_an_end(compiler: GrammarCompiler) -> None:
    matcher, newline = _schema(compiler, {"type": "object"}).matcher(), _token("Ċ")
    matcher.accept(_token("{"))
    for _ in range(40):
        assert newline in _allowed(matcher)
        matcher.accept(newline)
    assert newline not in _allowed(matcher)


# The end of a text


def test_the_end_is_allowed_where_the_grammar_is_satisfied_and_only_there() -> None:
    letter = _token("a")
    # The second token also has a letter, as in models that end with a full stop.
    compiler = _compiler(eos=[EOS, letter])
    matcher = compiler.compile("start: /b{2,3}|b{2}a/").matcher()
    b = _token("b")
    for satisfied in (False, False, True):
        allowed = _allowed(matcher)
        assert (EOS in allowed, letter in allowed) == (satisfied, satisfied)
        assert not matcher.finished
        matcher.accept(b)
    assert matcher.finished
    assert _allowed(matcher) == {EOS, letter}
    matcher.accept(EOS)
    assert matcher.finished


def test_a_model_without_an_end_token_generates_until_no_token_may_follow() -> None:
    matcher = _compiler(eos=[]).compile("start: /[a-z]{2}/").matcher()
    for _ in range(2):
        allowed = _allowed(matcher)
        assert SIZE - 1 not in allowed or _text([SIZE - 1]).isalpha()
        matcher.accept(_token("z"))
    assert matcher.finished


@pytest.mark.parametrize("change", [-40, 0, 1, 133])
def test_a_model_may_have_fewer_or_more_logits_than_its_tokenizer_tokens(change: int) -> None:
    size = SIZE + change
    matcher = _compiler(size, [EOS, SIZE - 1 + change]).compile("start: /[a-z ]{0,9}/").matcher()
    allowed = _allowed(matcher, size)
    assert {EOS, size - 1} <= allowed
    assert all(re.fullmatch("[a-z ]{0,9}", _text([token])) for token in allowed - {EOS, size - 1})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_mask_keeps_allowed_logits_unchanged(compiler: GrammarCompiler, dtype: torch.dtype) -> None:
    matcher = compiler.compile("start: /[0-9]+/").matcher()
    logits = torch.randn(2, SIZE).to(dtype)
    before = logits.clone()
    matcher.mask(logits[1])
    assert torch.equal(logits[0], before[0])
    kept = logits[1] != FORBIDDEN
    assert torch.equal(logits[1][kept], before[1][kept])
    assert {_text([token]) for token in torch.nonzero(kept).flatten().tolist()} >= set("0123456789")


def test_sequences_of_one_grammar_are_independent(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile('start: "ab" | "cd"')
    first, second = grammar.matcher(), grammar.matcher()
    first.accept(_token("a"))
    second.accept(_token("c"))
    assert _allowed(first) == {_token("b")}
    assert _allowed(second) == {_token("d")}


def test_a_token_against_the_grammar_is_a_server_error(compiler: GrammarCompiler) -> None:
    matcher = compiler.compile("start: /[0-9]/").matcher()
    with pytest.raises(InferenceFailed):
        matcher.accept(_token("a"))
    assert not matcher.finished


def test_a_grammar_that_the_model_has_no_token_for_fails() -> None:
    matcher = _compiler(30, []).compile('start: "zzz"').matcher()
    with pytest.raises(InferenceFailed):
        matcher.mask(torch.zeros(30))


# Tokens


def test_a_token_has_its_exact_bytes(compiler: GrammarCompiler) -> None:
    text = "Naïve café, 東京 🙂"
    tokens = TOKENIZER(text)["input_ids"]
    assert b"".join(compiler.token_bytes(token) for token in tokens) == text.encode()
    assert compiler.token_bytes(EOS) == b"<|endoftext|>"
    assert compiler.token_bytes(SIZE + 7) == b""


def test_a_tokenizer_without_bytes_cannot_constrain_but_names_its_tokens() -> None:
    tokenizer = wordpiece_tokenizer()
    compiler = GrammarCompiler(tokenizer, len(tokenizer), [3])
    with pytest.raises(InvalidRequest, match=r"^response_format: the model's tokenizer"):
        compiler.response_format({"type": "json_object"})
    compiler.prepare()
    assert compiler.token_bytes(3) == b"[SEP]"


def test_several_threads_may_compile_in_parallel() -> None:
    compiler, answers = _compiler(), list[bytes]()
    threads = [threading.Thread(target=lambda: answers.append(compiler.token_bytes(1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"!"] * 4


# Refused formats


def _nested(inner: Any, levels: int) -> Any:
    for _ in range(levels):
        inner = {"items": inner}
    return inner


def _chain(length: int, last: Any) -> dict[str, Any]:
    links = {f"a{i}": {"properties": {"x": {"$ref": f"#/$defs/a{i + 1}"}}} for i in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{length}": last}}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "response_format.type"),
        ({"type": "yaml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": "x"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}, "response_format.json_schema.strict"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"not": {}}}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "#/x"}}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}, "response_format"),
        ({"type": "regex"}, "response_format.regex"),
        ({"type": "regex", "regex": "(a"}, "response_format.regex"),
        ({"type": "regex", "regex": "(?=a)b"}, "response_format.regex"),
    ],
)
def test_a_wrong_format_is_refused_by_name_in_one_line(compiler: GrammarCompiler, given: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compiler.response_format(given)
    assert caught.value.message.startswith(f"{field}: ")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_an_unenforceable_schema_is_ignored_only_if_not_strict(compiler: GrammarCompiler) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "maxItems": 3}
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        _schema(compiler, schema)
    assert set(json.loads(_draw_text(_schema(compiler, schema, strict=False), 1))) <= {1, 2}


#: Ranges that begin at the least number of 64 bits end llguidance's process.
LEAST_NUMBERS: dict[str, dict[str, Any]] = {
    "constant": {"const": -(2**63)},
    "rounded": {"const": -(2**63) + 512},
    "of many": {"enum": ["a", 1, -(2**63)]},
    "float": {"type": "integer", "const": -1e30},
    "huge": {"const": -(10**400)},
    "range": {"type": "integer", "minimum": -(2**63) + 1, "maximum": -(2**63) + 8},
    "exclusive": {"type": "integer", "exclusiveMinimum": -1e30, "exclusiveMaximum": -9.3e18},
    "deep": {
        "anyOf": [{"type": "object", "properties": {"a": {"allOf": [{"minimum": -(2**63)}, {"maximum": -(2**63)}]}}}]
    },
}

HOSTILE: dict[str, dict[str, Any]] = {
    "deep": _nested({"type": "string"}, 50_000),
    "long chain of references": _chain(20_000, {"type": "string"}),
    "deep chain of references": {
        "$ref": "#/$defs/a0",
        "$defs": {f"a{i}": _nested({"$ref": f"#/$defs/a{i + 1}"}, 60) for i in range(50)} | {"a50": {}},
    },
    "anchors": {"$defs": {f"a{i}": {"$anchor": f"a{i}", "items": {"$ref": f"#a{i + 1}"}} for i in range(3000)}},
    "huge": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20_000)}},
    "intersected patterns": {"allOf": [{"type": "string", "pattern": f"a{i}.*b"} for i in range(30)]},
    "patterns intersected through references": {
        "$ref": "#/$defs/a0",
        "$defs": {f"a{i}": {"$ref": f"#/$defs/a{i + 1}", "pattern": f"a{i}.*b"} for i in range(30)} | {"a30": {}},
    },
    "product of choices": {
        "allOf": [
            {"anyOf": [{"properties": {f"p{i}_{j}": {"type": "string"}}, "required": [f"p{i}_{j}"]} for j in range(4)]}
            for i in range(12)
        ]
    },
    "optional letters": {"type": "string", "pattern": "a?" * 40_000},
    **{f"least number, {name}": schema for name, schema in LEAST_NUMBERS.items()},
    "divisor": {"type": "integer", "multipleOf": 999_999_937},
    "many values": {"enum": [f"value {i * 7919}" for i in range(100_000)]},
    "states": {"type": "string", "pattern": "^(.*a.{200}){1,20}$", "minLength": 300, "maxLength": 310},
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_schema_is_refused_quickly(compiler: GrammarCompiler, schema: dict[str, Any]) -> None:
    begun = time.process_time()
    with pytest.raises(InvalidRequest, match=r"^response_format[a-z_.]*: "):
        _schema(compiler, schema)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "((a{1000}){1000}){1000}"},
        {"type": "string", "pattern": "(a|aa|b*)*c"},
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "items": {"type": "object"}, "minItems": 10**9},
        {"$ref": "#/$defs/a0", "$defs": {**{f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(30)},
         "a30": {"type": "string"}}},
        _chain(100, {"type": "string"}),
    ],
)  # fmt: skip
def test_a_harmless_large_schema_is_compiled_quickly(compiler: GrammarCompiler, schema: dict[str, Any]) -> None:
    begun = time.process_time()
    matcher = _schema(compiler, schema).matcher()
    _allowed(matcher)
    assert time.process_time() - begun < 4


def test_numbers_of_64_bits_can_be_requested(compiler: GrammarCompiler) -> None:
    for number in (-(2**62), -(2**63) + 1024, 2**63 - 1):
        matcher = _schema(compiler, {"const": number}).matcher()
        assert _allowed(matcher)


def test_a_regular_expression_with_too_many_parts_ends_its_own_request_quickly(compiler: GrammarCompiler) -> None:
    grammar = compiler.response_format({"type": "regex", "regex": "(a{1000}){1000}"})
    assert grammar is not None
    with pytest.raises(InvalidRequest, match=r"^response_format: is too complex"):
        grammar.matcher().accept(next(token for token in range(1, SIZE) if _text([token]) == "a"))


def test_a_regular_expression_with_too_many_states_ends_its_own_request_only(compiler: GrammarCompiler) -> None:
    regex = r"(.|\n)*[a-m](.|\n){200}"
    grammar = compiler.response_format({"type": "regex", "regex": regex})
    assert grammar is not None
    matcher, chance = grammar.matcher(), random.Random(0)
    letters = [token for token in range(1, SIZE) if _text([token]).isascii()]

    def write() -> None:
        while True:
            _allowed(matcher)
            matcher.accept(chance.choice(letters))

    with pytest.raises(InvalidRequest, match=r"^response_format: is too complex"):
        write()
    again = compiler.response_format({"type": "regex", "regex": regex})
    assert again is not None
    assert _allowed(again.matcher())

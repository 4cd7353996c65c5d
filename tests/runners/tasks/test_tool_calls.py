"""Promise: tool calls are valid under a grammar and found for any deltas; no text is lost."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from hf_runtime.contract.errors import InvalidRequest
from runners.engines.generate.grammar import GrammarCompiler
from runners.tasks.answers.parts import AnswerPart, ParsedToolCall
from runners.tasks.notations.json_calls import HERMES, LLAMA, MISTRAL
from runners.tasks.notations.json_calls import JsonNotation as Notation
from runners.tasks.tool_call_reader import ToolCallReader
from runners.tasks.tool_calls import ToolSyntax
from tests.tiny import byte_level_tokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"city": {"enum": ["Paris", "東京"]}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
NAMES = ["weather", "clock"]
NOTATIONS = [HERMES, MISTRAL, LLAMA]


def _tokenizer(notation: Notation, marked: Sequence[str] = (), special: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = f"{{# {notation.in_template[0]} #}}"
    tokenizer.add_tokens(list(marked))
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def _call(notation: Notation, name: str, arguments: Any) -> str:
    text = json.dumps({"name": name, notation.arguments: arguments}, ensure_ascii=False)
    return f"[{text}]" if notation.in_array else text


def _format_call(notation: Notation, name: str, arguments: Any) -> str:
    return notation.before + _call(notation, name, arguments) + notation.after_call


def _read(reader: ToolCallReader, deltas: Sequence[str]) -> list[AnswerPart]:
    whole: list[AnswerPart] = []
    for piece in [out for text in deltas for out in reader.feed(text)] + reader.end():
        if isinstance(piece, str) and whole and isinstance(whole[-1], str):
            whole[-1] += piece
        else:
            whole.append(piece)
    return whole


class Grammar:
    """Grammar of a tool choice, checked on whole texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tools: Any, choice: Any, parallel: bool = True) -> None:
        self.syntax = ToolSyntax(tokenizer)
        self.tokenizer = tokenizer
        grammar = self.syntax.grammar(tools, choice, parallel)
        assert grammar is not None
        assert tokenizer.eos_token_id == 0
        self.grammar = GrammarCompiler(tokenizer, len(tokenizer), [0]).compile(grammar, "tools")

    def allows(self, text: str) -> bool:
        """Return True if an answer may be this text and end there."""
        matcher = self.grammar.matcher()
        for token in [*self.tokenizer(text)["input_ids"], 0]:
            logits = torch.zeros(len(self.tokenizer))
            matcher.mask(logits)
            if logits[token] != 0:
                return False
            matcher.accept(token)
        return True

    def draw(self, seed: int, likely: str = "") -> str:
        """Draw a text at random; tokens of a likely one come first where they may."""
        chance, matcher, tokens = random.Random(seed), self.grammar.matcher(), list[int]()
        wanted = list(self.tokenizer(likely)["input_ids"])
        while not matcher.finished and len(tokens) < 400:
            logits = torch.zeros(len(self.tokenizer))
            matcher.mask(logits)
            allowed = torch.nonzero(logits == 0).flatten().tolist()
            token = wanted.pop(0) if wanted and wanted[0] in allowed else chance.choice(allowed)
            if 0 in allowed and not wanted and (token == 0 or len(tokens) > 150):
                break
            if token != 0:
                matcher.accept(token)
                tokens.append(token)
        return str(self.tokenizer.decode(tokens))


# Grammars


@pytest.mark.parametrize("notation", NOTATIONS)
def test_the_template_determines_the_notation(notation: Notation) -> None:
    assert ToolSyntax(_tokenizer(notation)).notation == notation
    tokenizer = byte_level_tokenizer()
    assert ToolSyntax(tokenizer).notation == HERMES


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("as_tokens", [False, True])
def test_an_answer_with_required_calls_has_only_valid_calls(notation: Notation, as_tokens: bool) -> None:
    tags = [tag for tag in (notation.before, notation.after_call) if tag and as_tokens]
    tokenizer = _tokenizer(notation, special=tags if notation == MISTRAL else (), marked=tags)
    grammar = Grammar(tokenizer, TOOLS, "required", parallel=False)
    for seed in range(10):
        (call,) = _read(grammar.syntax.reader(NAMES), [grammar.draw(seed)])
        assert isinstance(call, ParsedToolCall)
        arguments = json.loads(call.arguments)
        if call.name == "clock":
            assert arguments == {}
        else:
            assert arguments["city"] in ("Paris", "東京")
            assert 1 <= arguments.get("days", 1) <= 9


@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_chosen_function_is_called_once(notation: Notation) -> None:
    grammar = Grammar(_tokenizer(notation), TOOLS, {"type": "function", "function": {"name": "clock"}})
    text = _format_call(notation, "clock", {})
    assert grammar.allows(text)
    assert not grammar.allows(text + (notation.between or "") + text)
    assert not grammar.allows(_format_call(notation, "weather", {"city": "Paris"}))
    assert not grammar.allows("")
    with pytest.raises(InvalidRequest, match=r"^tool_choice: "):
        Grammar(_tokenizer(notation), TOOLS, {"type": "function", "function": {"name": "news"}})


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_with_auto_text_is_free_until_a_call_begins(notation: Notation, as_tokens: bool, parallel: bool) -> None:
    tags = [tag for tag in (notation.before, notation.after_call) if tag and as_tokens]
    grammar = Grammar(_tokenizer(notation, marked=[*tags, "<think>"]), TOOLS, "auto", parallel)
    said = "" if notation.at_start_only else "Let me look. <b>"
    for text in ("", "Hello <tool", "naïve\n\n{} [1]", "<think>Hm.<think>", 'x{"name": 1}'):
        assert grammar.allows(text), text
    assert grammar.allows(said + _format_call(notation, "weather", {"city": "Paris"}))
    assert grammar.allows(_format_call(notation, "clock", {}))
    assert not grammar.allows(said + _format_call(notation, "weather", {"city": "Rome"}))
    assert not grammar.allows(said + _format_call(notation, "news", {}))
    assert not grammar.allows(said + notation.before + notation.opening)


def test_parallel_calls_follow_one_another_only_if_allowed() -> None:
    one = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    for choice in ("auto", "required"):
        assert Grammar(_tokenizer(HERMES), TOOLS, choice).allows(f"{one}\n{one}")
        assert not Grammar(_tokenizer(HERMES), TOOLS, choice, parallel=False).allows(f"{one}\n{one}")
    listed = '[TOOL_CALLS][{"name": "clock", "arguments": {}}, {"name": "clock", "arguments": {}}]'
    assert Grammar(_tokenizer(MISTRAL), TOOLS, "required").allows(listed)
    assert not Grammar(_tokenizer(MISTRAL), TOOLS, "required", parallel=False).allows(listed)


@pytest.mark.parametrize("notation", NOTATIONS)
def test_calls_within_free_text_are_found(notation: Notation) -> None:
    grammar = Grammar(_tokenizer(notation, special=[notation.before] if notation == MISTRAL else ()), TOOLS, "auto")
    begin = notation.before + notation.opening
    for seed in range(5):
        deltas = _read(grammar.syntax.reader(NAMES), [grammar.draw(seed, begin)])
        assert any(isinstance(piece, ParsedToolCall) for piece in deltas)


def test_without_a_choice_there_is_no_grammar() -> None:
    syntax = ToolSyntax(_tokenizer(HERMES))
    assert syntax.grammar(TOOLS, "none") is None
    assert syntax.grammar([], "auto") is None


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ({"parameters": {"type": "array"}}, r"tools\[1\].function.parameters.type"),
        ({"parameters": {"type": "object", "properties": {"x": {"type": "strin"}}}}, r"tools\[1\].function.parameters"),
        ({"strict": True, "parameters": {"not": {}}}, r"tools\[1\].function.parameters"),
    ],
)
def test_parameters_that_cannot_be_enforced_are_refused_by_name(function: Any, field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        ToolSyntax(_tokenizer(HERMES)).grammar([CLOCK, {"function": {"name": "x", **function}}], "auto")


def test_unenforceable_parts_of_parameters_are_ignored_unless_strict() -> None:
    tool = {"function": {"name": "x", "parameters": {"type": "object", "not": {}, "required": ["a"]}}}
    assert Grammar(_tokenizer(HERMES), [tool], "required").allows(_format_call(HERMES, "x", {"a": 1}))


# Parsing


TEXTS: list[tuple[Notation, str, Any]] = [
    (HERMES, "", []),
    (HERMES, "Hello <tool_car> ", ["Hello <tool_car> "]),
    (HERMES, _format_call(HERMES, "clock", {}), [ParsedToolCall("clock", "{}")]),
    (
        HERMES,
        'Well,\n <tool_call>\n{"name": "weather", "arguments": {"city": "東京"}}\n</tool_call>\n'
        '<tool_call>{"arguments": {"a": "}</tool_call>\\"\\\\"}, "name": "clock"}</tool_call> \n Bye. ',
        [
            "Well,",
            ParsedToolCall("weather", '{"city": "東京"}'),
            ParsedToolCall("clock", '{"a": "}</tool_call>\\"\\\\"}'),
            "Bye. ",
        ],
    ),
    (HERMES, '<tool_call>{"name": "clock", "arguments": {}}', [ParsedToolCall("clock", "{}")]),
    (HERMES, '<tool_call>{"name": "clock", "arguments": {}}</tool', [ParsedToolCall("clock", "{}"), "</tool"]),
    (HERMES, 'a <tool_call>{"name": "clock", "argu', ['a <tool_call>{"name": "clock", "argu']),
    (HERMES, " <tool_call> no </tool_call> ", [" <tool_call> no </tool_call> "]),
    (HERMES, '<tool_call>{"name": "x", "arguments": {}}</tool_call>', ...),
    (HERMES, '<tool_call>{"name": "clock", "arguments": 7}</tool_call>', ...),
    (HERMES, '<tool_call>{"name": "clock", "arguments": {"a": NaN}}</tool_call>', ...),
    (HERMES, '<tool_call>{"name": "clock", "arguments": {"a": 1e999}}</tool_call>', ...),
    (HERMES, '<tool_call>{"name": "clock", {]}</tool_call>', ...),
    (
        HERMES,
        '<tool_call>{"name": </tool_call> <tool_call>{"name": "clock", "arguments": {}}</tool_call>',
        ['<tool_call>{"name": </tool_call>', ParsedToolCall("clock", "{}")],
    ),
    (
        HERMES,
        '<tool_call>{"name": "clock", "arguments": {"a": "\\ud800"}}',
        [ParsedToolCall("clock", '{"a": "\\ud800"}')],
    ),
    (HERMES, "<tool_call>" * 3 + " x", ["<tool_call>" * 3 + " x"]),
    (
        MISTRAL,
        'Hm. [TOOL_CALLS] [{"name": "clock", "arguments": {}}, {"name": "weather", "arguments": {"city": "Paris"}}]',
        ["Hm.", ParsedToolCall("clock", "{}"), ParsedToolCall("weather", '{"city": "Paris"}')],
    ),
    (MISTRAL, '[TOOL_CALLS][{"name": "clock", "arguments": {}}, 7]', ...),
    (MISTRAL, "[TOOL_CALLS][]", ...),
    (LLAMA, '\n {"name": "clock", "parameters": {}} ', [ParsedToolCall("clock", "{}")]),
    (LLAMA, '{"name": "news", "parameters": {}}', ...),
    (LLAMA, '{"names": ["clock"]}', ...),
    (LLAMA, 'Look: {"name": "clock", "parameters": {}}', ...),
    (LLAMA, "  ", ["  "]),
    (
        LLAMA,
        '{"name": "clock", "parameters": {}} and {"name": "clock", "parameters": {}}',
        [ParsedToolCall("clock", "{}"), 'and {"name": "clock", "parameters": {}}'],
    ),
]


def _reader(notation: Notation) -> ToolCallReader:
    return ToolSyntax(_tokenizer(notation)).reader(NAMES)


@pytest.mark.parametrize(("notation", "text", "expected"), TEXTS)
def test_content_and_calls_are_separated(notation: Notation, text: str, expected: Any) -> None:
    """Compare with the expected parts; `...` stands for a text without calls."""
    expected = [text] if expected is ... else expected
    assert _read(_reader(notation), [text]) == expected
    assert _read(_reader(notation), list(text)) == expected


def test_content_is_held_back_no_longer_than_needed() -> None:
    reader = _reader(HERMES)
    assert reader.feed("Hello wor") == ["Hello wor"]
    assert reader.feed("ld <tool") == ["ld"]
    assert reader.feed("s>") == [" <tools>"]
    assert reader.feed(' <tool_call>{"name": "clock", "arguments": {}}') == [ParsedToolCall("clock", "{}")]
    assert _reader(LLAMA).feed("Hello ") == ["Hello "]


_PARTS = st.sampled_from(
    ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", '{"name": "clock", "arguments": {}}', "[", "]", "{", "}", '"', "\\",
     '{"name":', '"clock"', '"parameters": {}', ", ", "\n", " ", "x", "é🙂", _call(LLAMA, "clock", {"a": "b"}),
     _call(MISTRAL, "clock", {}), _format_call(HERMES, "weather", {"city": "Paris"})]
)  # fmt: skip


@given(st.sampled_from(NOTATIONS), st.lists(_PARTS, max_size=12), st.data())
def test_the_result_does_not_depend_on_the_deltas(notation: Notation, parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    deltas = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = _read(_reader_of(notation), [text])
    assert _read(_reader_of(notation), deltas) == whole
    # The content is complete and in order; only calls, the white space around them, and their tags lie between.
    at = 0
    for piece in whole:
        if isinstance(piece, str):
            found = text.find(piece, at)
            assert found >= 0
            at = found + len(piece)
    if not any(isinstance(piece, ParsedToolCall) for piece in whole):
        assert "".join(str(piece) for piece in whole) == text


_SYNTAXES = {notation.in_template[0]: ToolSyntax(_tokenizer(notation)) for notation in NOTATIONS}


def _reader_of(notation: Notation) -> ToolCallReader:
    return _SYNTAXES[notation.in_template[0]].reader(NAMES)


def test_a_long_call_is_parsed_in_linear_time() -> None:
    reader = _reader(HERMES)
    text = _format_call(HERMES, "clock", {"a": "x" * 100_000, "b": list(range(20_000))})
    deltas = [text[i : i + 4] for i in range(0, len(text), 4)]
    (call,) = _read(reader, deltas)
    assert isinstance(call, ParsedToolCall)

"""Promise: calls in every family's notation are read whole and streamed, and what a grammar forces is read."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from hf_runtime.contract.chat import parse_chat
from hf_runtime.contract.parsers import ToolParser
from runners.engines.generate.grammar import GrammarCompiler
from runners.tasks.answers.answer_format import AnswerFormat, AnswerPlan
from runners.tasks.answers.parts import AnswerPart, AnswerReader, ParsedToolCall, Reasoning
from runners.tasks.notations import NOTATIONS
from tests.tiny import byte_level_tokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "get-weather.v2",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "東京"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "exact": {"type": "boolean"},
                "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
                "where": {"$ref": "#/$defs/where"},
            },
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {
                "where": {
                    "type": "object",
                    "properties": {"x": {"type": "number"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
                    "required": ["x"],
                    "additionalProperties": False,
                }
            },
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
SEARCH = {"type": "function", "function": {"name": "search", "parameters": {
    "type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"],
    "additionalProperties": False}}}  # fmt: skip
TOOLS = [WEATHER, CLOCK, SEARCH]

DS = {
    name: f"<\uff5c{name.replace(' ', chr(0x2581))}\uff5c>"
    for name in ("tool calls begin", "tool call begin", "tool sep", "tool call end", "tool calls end")
}

#: By family: a part of its public template, its special tokens, its tokens that are no special ones, two calls.
FAMILIES: dict[str, tuple[str, list[str], list[str], str]] = {
    "hermes": (
        "<tool_call>", [], ["<tool_call>", "</tool_call>"],
        '<tool_call>\n{"name": "get-weather.v2", "arguments": {"city": "Paris", "days": 3, "note": null}}\n</tool_call>'
        '\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>',
    ),
    "mistral": (
        "[TOOL_CALLS]", ["[TOOL_CALLS]"], [],
        '[TOOL_CALLS] [{"name": "get-weather.v2", "arguments": {"city": "Paris", "days": 3, "note": null}},'
        ' {"name": "clock", "arguments": {}}]',
    ),
    "mistral args": (
        "[TOOL_CALLS] [ARGS]", ["[TOOL_CALLS]", "[ARGS]"], [],
        '[TOOL_CALLS]get-weather.v2[ARGS]{"city": "Paris", "days": 3, "note": null}[TOOL_CALLS]clock[ARGS]{}',
    ),
    "llama": (
        '{"name": function name, "parameters": dictionary of argument name and its value}', ["<|python_tag|>"], [],
        '{"name": "get-weather.v2", "parameters": {"city": "Paris", "days": 3, "note": null}}',
    ),
    "pythonic": (
        "[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]", [], [],
        "[get-weather.v2(city='Paris', days=3, note=None), clock()]",
    ),
    "granite": (
        "<|tool_call|>", ["<|tool_call|>"], [],
        '<|tool_call|>[{"name": "get-weather.v2", "arguments": {"city": "Paris", "days": 3, "note": null}},'
        ' {"name": "clock", "arguments": {}}]',
    ),
    "kimi": (
        "<|tool_calls_section_begin|><|tool_call_begin|><|tool_call_argument_begin|>",
        ["<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>",
         "<|tool_calls_section_end|>"], [],
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get-weather.v2:0<|tool_call_argument_begin|>"
        '{"city": "Paris", "days": 3, "note": null}<|tool_call_end|>'
        "<|tool_call_begin|>functions.clock:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    "deepseek v3": (
        f"{DS['tool calls begin']}```json", list(DS.values()), [],
        f"{DS['tool calls begin']}{DS['tool call begin']}function{DS['tool sep']}get-weather.v2\n```json\n"
        f'{{"city": "Paris", "days": 3, "note": null}}\n```{DS["tool call end"]}\n'
        f"{DS['tool call begin']}function{DS['tool sep']}clock\n```json\n{{}}\n```"
        f"{DS['tool call end']}{DS['tool calls end']}",
    ),
    "deepseek v31": (
        DS["tool calls begin"], [], list(DS.values()),
        f"{DS['tool calls begin']}{DS['tool call begin']}get-weather.v2{DS['tool sep']}"
        f'{{"city": "Paris", "days": 3, "note": null}}{DS["tool call end"]}'
        f"{DS['tool call begin']}clock{DS['tool sep']}{{}}{DS['tool call end']}{DS['tool calls end']}",
    ),
    "qwen3 coder": (
        "<function=example><parameter=x>", [], ["<tool_call>", "</tool_call>"],
        "<tool_call>\n<function=get-weather.v2>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
        "</parameter>\n<parameter=note>\nnull\n</parameter>\n</function>\n</tool_call>"
        "\n<tool_call>\n<function=clock>\n</function>\n</tool_call>",
    ),
    "glm": (
        "<arg_key>", [], ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
        "<tool_call>get-weather.v2\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n<arg_key>note</arg_key>\n<arg_value>null</arg_value>\n</tool_call>"
        "\n<tool_call>clock\n</tool_call>",
    ),
    "functionary": (
        "<function=example_function_name>", [], [],
        '<function=get-weather.v2>{"city": "Paris", "days": 3, "note": null}</function><function=clock>{}</function>',
    ),
    "gpt-oss": (
        "<|start|><|channel|><|message|>",
        ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"], [],
        "<|channel|>commentary to=functions.get-weather.v2 <|constrain|>json<|message|>"
        '{"city": "Paris", "days": 3, "note": null}',
    ),
}  # fmt: skip
FIRST = ParsedToolCall("get-weather.v2", '{"city": "Paris", "days": 3, "note": null}')
ONE_CALL = ("llama", "gpt-oss")
AT_START = ("llama", "pythonic")
IDS = list(FAMILIES)


def _tokenizer(family: str, as_text: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = byte_level_tokenizer()
    template, special, tokens, _ = FAMILIES[family]
    tokenizer.chat_template = f"{{# {template} #}}{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}"
    if not as_text:
        tokenizer.add_special_tokens({"additional_special_tokens": special})
        tokenizer.add_tokens(tokens)
    return tokenizer


def _plan(tokenizer: PreTrainedTokenizerFast, **fields: Any) -> AnswerPlan:
    parsers = {name: fields.pop(name) for name in ("reasoning_parser", "tool_parser") if name in fields}
    chat = parse_chat({"messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, **fields})
    plan = AnswerFormat(tokenizer, **parsers).plan(chat, tokenizer("Hi")["input_ids"])
    assert plan is not None
    return plan


def read(reader: AnswerReader, pieces: Iterable[str], *, cut: bool = False) -> list[AnswerPart]:
    """All parts, with neighbours of one kind joined."""
    whole: list[AnswerPart] = []
    for part in [*(part for piece in pieces for part in reader.feed(piece)), *reader.end(cut=cut)]:
        if isinstance(part, str) and whole and isinstance(whole[-1], str):
            whole[-1] += part
        elif isinstance(part, Reasoning) and whole and isinstance(last := whole[-1], Reasoning):
            whole[-1] = Reasoning(last.text + part.text)
        else:
            whole.append(part)
    return whole


def read_cut_anywhere(plan: AnswerPlan, text: str, *, cut: bool = False) -> list[AnswerPart]:
    """The parts, which must not depend on how the text arrives."""
    whole = read(plan.create_reader(), [text], cut=cut)
    assert read(plan.create_reader(), list(text), cut=cut) == whole
    for at in range(1, len(text)):
        assert read(plan.create_reader(), [text[:at], text[at:]], cut=cut) == whole, text[:at]
    return whole


class Walk:
    """The grammar of an answer, over texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, plan: AnswerPlan, content: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.grammar = GrammarCompiler(tokenizer, len(tokenizer), [0]).compile(plan.write_grammar(content), "tools")

    def allows(self, text: str) -> bool:
        """Return whether the grammar accepts this text as a complete answer."""
        matcher = self.grammar.matcher()
        for token in [*self.tokenizer(text)["input_ids"], 0]:
            logits = torch.zeros(len(self.tokenizer))
            matcher.mask(logits)
            if logits[token] != 0:
                return False
            matcher.accept(token)
        return True

    def draw(self, seed: int, beginning: str = "") -> str:
        """A text drawn at random, which goes on after a beginning."""
        chance, matcher = random.Random(seed), self.grammar.matcher()
        tokens, wanted, soft = list[int](), list(self.tokenizer(beginning)["input_ids"]), list[int]()
        while not matcher.finished and len(tokens) < 2000:
            logits = torch.zeros(len(self.tokenizer))
            matcher.mask(logits)
            allowed = torch.nonzero(logits == 0).flatten().tolist()
            if wanted:
                token = wanted.pop(0)
                assert token in allowed, f"{beginning!r} is not allowed at {self.tokenizer.decode(tokens)!r}"
            elif 0 in allowed and len(tokens) > 40:
                break
            elif soft and soft[0] in allowed:
                token = soft.pop(0)
            elif len(tokens) > 60 and len(tokens) % 20 == 0:
                # Free text within an element ends only where it is closed.
                soft = list(self.tokenizer(chance.choice(["\n</parameter>", "</arg_value>", "<|end|>"]))["input_ids"])
                token = soft.pop(0) if soft[0] in allowed else chance.choice(allowed)
            else:
                # A long text ends soon, so that no string goes on without end.
                ends = [
                    token for token in allowed if str(self.tokenizer.decode([token])).strip()[:1] in set("\"'}])<>`\n")
                ]
                token = chance.choice(ends if ends and len(tokens) > 60 and chance.random() < 0.8 else allowed)
            if token == 0:
                break
            matcher.accept(token)
            tokens.append(token)
        assert len(tokens) < 2000
        return str(self.tokenizer.decode(tokens))


def _check(call: Any) -> None:
    assert isinstance(call, ParsedToolCall), call
    arguments = json.loads(call.arguments)
    match call.name:
        case "clock":
            assert arguments == {}
        case "search":
            assert isinstance(arguments["query"], str)
        case _:
            assert arguments["city"] in ("Paris", "東京")
            assert 1 <= arguments.get("days", 1) <= 9
            assert isinstance(arguments.get("exact", True), bool)
            assert isinstance(arguments.get("note"), str | None)
            assert isinstance(arguments.get("where", {"x": 0})["x"], int | float)


def test_every_parser_of_the_settings_has_a_notation() -> None:
    known = {name for notation in NOTATIONS for name in notation.parsers} | {"openai"}
    assert known == set(get_args(ToolParser))


@pytest.mark.parametrize("family", IDS)
def test_calls_are_read_whole_and_streamed_wherever_they_are_cut(family: str) -> None:
    plan = _plan(_tokenizer(family))
    text = FAMILIES[family][3]
    calls = [FIRST] if family in ONE_CALL else [FIRST, ParsedToolCall("clock", "{}")]
    assert read_cut_anywhere(plan, text) == calls
    if family not in (*AT_START, "gpt-oss"):
        assert read_cut_anywhere(plan, f"Let me see.\n\n{text}") == ["Let me see.", *calls]


@pytest.mark.parametrize("family", IDS)
@pytest.mark.parametrize("as_text", [False, True])
def test_a_family_writes_its_calls_freely_under_its_grammar(family: str, as_text: bool) -> None:
    tokenizer = _tokenizer(family, as_text)
    text = FAMILIES[family][3]
    for choice in ("auto", "required"):
        walk = Walk(tokenizer, _plan(tokenizer, tool_choice=choice))
        assert walk.allows(text), choice
        if family not in ONE_CALL:
            one = Walk(tokenizer, _plan(tokenizer, tool_choice=choice, parallel_tool_calls=False))
            assert not one.allows(text)
        if family != "pythonic" or choice == "required":  # a list of unknown calls is free text
            assert not walk.allows(text.replace("clock", "news").replace("get-weather.v2", "news"))
        assert not walk.allows(text.replace("Paris", "Rome"))
        assert walk.allows("Hello") is (choice == "auto" and family != "gpt-oss")


@pytest.mark.parametrize("family", IDS)
@pytest.mark.parametrize("as_text", [False, True])
def test_what_a_grammar_forces_is_read_as_calls(family: str, as_text: bool) -> None:
    tokenizer = _tokenizer(family, as_text)
    plan = _plan(tokenizer, tool_choice="required")
    walk = Walk(tokenizer, plan)
    for seed in range(12):
        text = walk.draw(seed)
        parts = [part for part in read(plan.create_reader(), list(text)) if not isinstance(part, Reasoning)]
        assert parts, text
        for part in parts:
            _check(part)


@pytest.mark.parametrize("family", IDS)
def test_a_call_that_has_begun_in_free_text_is_valid(family: str) -> None:
    tokenizer = _tokenizer(family)
    plan = _plan(tokenizer)
    walk = Walk(tokenizer, plan)
    beginning = FAMILIES[family][3].split("weather.v2")[0]
    if family == "pythonic":
        beginning += "weather.v2("
    if family not in (*AT_START, "gpt-oss"):
        beginning = f"Look: {beginning}"
    for seed in range(6):
        parts = read(plan.create_reader(), [walk.draw(seed, beginning)])
        calls = [part for part in parts if isinstance(part, ParsedToolCall)]
        assert calls
        for call in calls:
            _check(call)


@pytest.mark.parametrize("family", IDS)
def test_the_markup_of_a_call_that_is_cut_is_no_content(family: str) -> None:
    plan = _plan(_tokenizer(family))
    text = FAMILIES[family][3]
    for end in range(1, len(text)):
        parts = read(plan.create_reader(), [text[:end]], cut=True)
        assert read(plan.create_reader(), list(text[:end]), cut=True) == parts
        assert all(isinstance(part, ParsedToolCall) for part in parts), (text[:end], parts)


@pytest.mark.parametrize("family", IDS)
def test_a_call_of_an_unknown_function_is_content(family: str) -> None:
    plan = _plan(_tokenizer(family))
    text = FAMILIES[family][3].replace("get-weather.v2", "news").replace("clock", "news")
    parts = read_cut_anywhere(plan, text)
    assert all(isinstance(part, str) for part in parts)
    assert family == "gpt-oss" or "".join(map(str, parts)) == text


@pytest.mark.parametrize("family", IDS)
def test_content_and_json_with_a_schema_are_one_grammar(family: str) -> None:
    tokenizer = _tokenizer(family)
    content = 'start: %json {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": false}'
    walk = Walk(tokenizer, _plan(tokenizer), content)
    final = "<|channel|>final<|message|>" if family == "gpt-oss" else ""
    assert walk.allows(FAMILIES[family][3])
    assert walk.allows(final + '{"a": 1}')
    assert not walk.allows(final + "Hello")
    assert not walk.allows(FAMILIES[family][3].replace("Paris", "Rome"))
    required = Walk(tokenizer, _plan(tokenizer, tool_choice="required"), content)
    assert required.allows(FAMILIES[family][3])
    assert not required.allows(final + '{"a": 1}')


@pytest.mark.parametrize("family", ["kimi", "qwen3 coder", "gpt-oss", "llama"])
def test_only_allowed_tools_are_called(family: str) -> None:
    tokenizer = _tokenizer(family)
    for mode in ("auto", "required"):
        allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "search"}}]}
        plan = _plan(tokenizer, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
        assert list(plan.functions) == ["search"]
        assert not Walk(tokenizer, plan).allows(FAMILIES[family][3])
        for seed in range(3):
            if mode == "required":
                (call,) = [p for p in read(plan.create_reader(), [Walk(tokenizer, plan).draw(seed)])
                           if isinstance(p, ParsedToolCall)][:1]  # fmt: skip
                assert call.name == "search"


@pytest.mark.parametrize(
    ("parser", "family"),
    [
        ("hermes", "hermes"), ("mistral", "mistral"), ("llama3_json", "llama"), ("pythonic", "pythonic"),
        ("granite", "granite"), ("kimi_k2", "kimi"), ("deepseek_v3", "deepseek v3"), ("deepseek_v31", "deepseek v31"),
        ("qwen3_coder", "qwen3 coder"), ("glm45", "glm"), ("functionary", "functionary"), ("openai", "gpt-oss"),
    ],
)  # fmt: skip
def test_a_parser_of_the_settings_wins_over_the_template(parser: str, family: str) -> None:
    tokenizer = _tokenizer("hermes")
    assert read(_plan(tokenizer, tool_parser=parser).create_reader(), [FAMILIES[family][3]])[0] == FIRST


# Relatives


def _read_text(family: str, text: str, **fields: Any) -> Sequence[AnswerPart]:
    return read_cut_anywhere(_plan(_tokenizer(family), **fields), text)


def test_both_forms_of_mistral_are_read_whatever_the_template() -> None:
    for family in ("mistral", "mistral args"):
        assert _read_text(family, FAMILIES["mistral"][3])[0] == FIRST
        assert _read_text(family, FAMILIES["mistral args"][3])[0] == FIRST
    text = "Hm.[TOOL_CALLS]clock[CALL_ID]abcdef123[ARGS]{}"
    assert _read_text("mistral args", text) == ["Hm.", ParsedToolCall("clock", "{}")]


def test_kimi_calls_without_their_section_and_content_after_it_are_read() -> None:
    text = "<|tool_call_begin|>clock:0<|tool_call_argument_begin|>{}<|tool_call_end|>Done."
    assert _read_text("kimi", text) == [ParsedToolCall("clock", "{}"), "Done."]


def test_values_of_elements_have_the_types_of_the_schema() -> None:
    values = {"city": "Paris", "days": "3", "exact": "True", "note": "12", "where": '{"x": 1.5, "tags": ["a"]}'}
    qwen = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    glm = "".join(f"<arg_key>{key}</arg_key><arg_value>{value}</arg_value>" for key, value in values.items())
    expected = {"city": "Paris", "days": 3, "exact": True, "note": "12", "where": {"x": 1.5, "tags": ["a"]}}
    for family, text in (
        ("qwen3 coder", f"<tool_call>\n<function=get-weather.v2>\n{qwen}</function>\n</tool_call>"),
        ("qwen3 coder", f"<function=get-weather.v2>{qwen}</function>"),
        ("glm", f"<tool_call>get-weather.v2{glm}</tool_call>"),
    ):
        (call,) = _read_text(family, text)
        assert isinstance(call, ParsedToolCall)
        assert json.loads(call.arguments) == expected


def test_text_within_an_element_is_kept_line_by_line() -> None:
    code = "def f():\n\n    return '</tool_call>' < {}\n"
    text = f"<tool_call>\n<function=search>\n<parameter=query>\n{code}\n</parameter>\n</function>\n</tool_call>"
    assert _read_text("qwen3 coder", text) == [ParsedToolCall("search", json.dumps({"query": code}))]


def test_literals_of_python_and_json_are_read() -> None:
    text = (
        r"""[search(query='it\'s "1" [x]' ), search(query="a\u00e9\ud83d\ude42]"), """
        """get-weather.v2(city = "Paris", where={'x': -1.5e1, "tags": ['a', "b",],}, exact=true, note=null, days=+3)]"""
    )
    calls = _read_text("pythonic", text)
    assert [json.loads(call.arguments) for call in calls if isinstance(call, ParsedToolCall)] == [
        {"query": 'it\'s "1" [x]'},
        {"query": "aé🙂]"},
        {"city": "Paris", "where": {"x": -15.0, "tags": ["a", "b"]}, "exact": True, "note": None, "days": 3},
    ]


@pytest.mark.parametrize(
    "text",
    ["[1, 2] are numbers", "[news(a=1)]", "[search(query=open('x'))]", "[search(query=1) or 2]", "[", "[search("],
)
def test_a_list_that_is_no_list_of_calls_is_content(text: str) -> None:
    assert _read_text("pythonic", text) == [text]

"""Promise: reasoning is apart from content, whole and streamed, and a forced answer may follow it."""

from __future__ import annotations

import logging
from typing import Any, get_args

import pytest
from transformers import PreTrainedTokenizerFast

from hf_runtime.contract.chat import parse_chat
from hf_runtime.contract.parsers import ReasoningParser
from runners.tasks.answers.answer_format import AnswerFormat, AnswerPlan
from runners.tasks.answers.harmony import REASONING_PARSER
from runners.tasks.answers.parts import AnswerPart, ParsedToolCall, Reasoning
from runners.tasks.answers.thinking import FORMATS
from runners.tasks.chat_prompt import tokenize_chat
from tests.runners.tasks.test_notations import CLOCK, Walk, read, read_cut_anywhere
from tests.tiny import byte_level_tokenizer

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
BEGIN = "{% if add_generation_prompt %}<|im_start|>assistant\n"
QWEN3 = (
    TURNS + BEGIN + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}{# <tool_call> {{ tools }} #}"
)
R1 = TURNS + BEGIN + "<think>\n{% endif %}"
MAGISTRAL = TURNS + BEGIN + "{% endif %}{# [THINK] [TOOL_CALLS] #}"
GRANITE = TURNS + BEGIN + "{% endif %}{# Here is my thought process: #}"
GPT_OSS = (
    "Reasoning: {{ reasoning_effort or 'medium' }}"
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m.content }}{% if m.role == 'assistant' and loop.last %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
HARMONY = ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"]
CALL = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
CALLED = ParsedToolCall("clock", "{}")


def _tokenizer(template: str, as_tokens: bool = True) -> PreTrainedTokenizerFast:
    tokenizer = byte_level_tokenizer(4096)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    if as_tokens:
        tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "[TOOL_CALLS]", *HARMONY]})
        tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    return tokenizer


def _maybe_plan(template: str, chat: Any = None, as_tokens: bool = True, **options: Any) -> AnswerPlan | None:
    tokenizer = _tokenizer(template, as_tokens)
    parsed = parse_chat(chat or [{"role": "user", "content": "Hi"}])
    return AnswerFormat(tokenizer, **options).plan(parsed, tokenize_chat(tokenizer, parsed))


def _plan(template: str, chat: Any = None, as_tokens: bool = True, **options: Any) -> AnswerPlan:
    plan = _maybe_plan(template, chat, as_tokens, **options)
    assert plan is not None
    return plan


WITH_TOOL = {"messages": [{"role": "user", "content": "Hi"}], "tools": [CLOCK]}


def test_every_parser_of_the_settings_has_a_format() -> None:
    known = {name for form in FORMATS for name in form.parsers} | {REASONING_PARSER, "none"}
    assert known == set(get_args(ReasoningParser))


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        (QWEN3, "<think>\nI greet.\n</think>\n\nHello!", [Reasoning("I greet."), "Hello!"]),
        (QWEN3, "\n<think>I greet.</think>Hello!\n", [Reasoning("I greet."), "Hello!\n"]),
        (QWEN3, "<think>\n\n</think>\n\nHello <think>!", ["Hello <think>!"]),
        (QWEN3, "Hello <think>x</think>", ["Hello <think>x</think>"]),
        (QWEN3, " <thin", [" <thin"]),
        (QWEN3, "<think>\nI greet, but never", [Reasoning("I greet, but never")]),
        (QWEN3, "<think>a < b </thi", [Reasoning("a < b </thi")]),
        (QWEN3, "", []),
        (R1, "I greet.\n</think>\n\nHello!", [Reasoning("I greet."), "Hello!"]),
        (R1, "<think>\nI greet.\n</think>\n\nHello!", [Reasoning("I greet."), "Hello!"]),
        (R1, "I greet, but never", [Reasoning("I greet, but never")]),
        (R1, "\n\n</think>\n\nHello!", ["Hello!"]),
        (MAGISTRAL, "[THINK]I greet.[/THINK]Hello!", [Reasoning("I greet."), "Hello!"]),
        (
            GRANITE,
            "Here is my thought process: I greet.\n\nHere is my response: Hello!",
            [Reasoning("I greet."), "Hello!"],
        ),
        (GRANITE, "Here is my cat.", ["Here is my cat."]),
        (
            GPT_OSS,
            "<|channel|>analysis<|message|>I greet.<|end|><|start|>assistant<|channel|>final<|message|>Hello!",
            [Reasoning("I greet."), "Hello!"],
        ),
        (
            GPT_OSS,
            "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
            "<|start|>assistant<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>final"
            "<|message|>Done.",
            [Reasoning("One.\nTwo."), "Wait.\nDone."],
        ),
        (GPT_OSS, "Hello, no channels < here", ["Hello, no channels < here"]),
        (GPT_OSS, "<|channel|>analysis<|message|>I greet, but never", [Reasoning("I greet, but never")]),
    ],
)
def test_reasoning_is_apart_from_content(template: str, text: str, expected: list[AnswerPart]) -> None:
    for as_tokens in (True, False):
        assert read_cut_anywhere(_plan(template, as_tokens=as_tokens), text) == expected


@pytest.mark.parametrize("cut", [False, True])
def test_the_marks_of_reasoning_that_is_cut_are_nowhere(cut: bool) -> None:
    texts = {
        QWEN3: "<think>\nI greet.\n</think>\n\nHello!",
        GPT_OSS: "<|channel|>analysis<|message|>I greet.<|end|><|start|>assistant<|channel|>final<|message|>Hello!",
    }
    for template, text in texts.items():
        plan = _plan(template)
        for end in range(1, len(text)):
            parts = read(plan.create_reader(), [text[:end]], cut=cut)
            assert read(plan.create_reader(), list(text[:end]), cut=cut) == parts
            content = "".join(part for part in parts if isinstance(part, str))
            assert not cut or "Hello!".startswith(content), text[:end]


def test_calls_within_reasoning_are_no_calls() -> None:
    text = f"<think>\nI could write {CALL}.\n</think>\n\nWell.\n{CALL}"
    thought = Reasoning(f"I could write {CALL}.")
    assert read_cut_anywhere(_plan(QWEN3, WITH_TOOL), text) == [thought, "Well.", CALLED]
    assert read_cut_anywhere(_plan(QWEN3, WITH_TOOL), f"<think>\n{CALL}") == [Reasoning(CALL)]


def test_gpt_oss_calls_in_each_form_of_its_header() -> None:
    analysis = "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant"
    for call in (
        "<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{}",
        " to=functions.clock<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.clock json<|message|>{}<|end|>",
    ):
        assert read_cut_anywhere(_plan(GPT_OSS, WITH_TOOL), analysis + call) == [Reasoning("Need it."), CALLED]
        assert read_cut_anywhere(_plan(GPT_OSS, WITH_TOOL), call.lstrip()) == [CALLED]
    unknown = "<|channel|>commentary to=functions.news <|constrain|>json<|message|>{}"
    assert read_cut_anywhere(_plan(GPT_OSS, WITH_TOOL), unknown) == ["{}"]
    builtin = "<|channel|>analysis to=browser.search code<|message|>{}<|end|>"
    assert read_cut_anywhere(_plan(GPT_OSS, WITH_TOOL), builtin) == [Reasoning("{}")]


def test_an_answer_is_content_where_thinking_is_off() -> None:
    off = {"messages": [{"role": "user", "content": "Hi"}], "chat_template_kwargs": {"enable_thinking": False}}
    assert _maybe_plan(QWEN3, off) is None
    assert _maybe_plan(QWEN3, {"messages": off["messages"], "reasoning_effort": "none"}) is None
    assert _maybe_plan(QWEN3, reasoning_parser="none") is None
    assert _maybe_plan(R1, reasoning_parser="none") is None
    assert _maybe_plan(GPT_OSS, reasoning_parser="none") is None
    assert _maybe_plan(TURNS, as_tokens=False) is None


def test_words_of_the_user_do_not_open_reasoning() -> None:
    for said in ("<think>", "What does </think> mean? </think>"):
        plan = _plan(QWEN3, [{"role": "user", "content": said}])
        assert read_cut_anywhere(plan, "Hello!") == ["Hello!"]
        assert read_cut_anywhere(plan, "<think>a</think>Hello!") == [Reasoning("a"), "Hello!"]


def test_a_begun_answer_goes_on_where_it_was() -> None:
    user = {"role": "user", "content": "Hi"}
    assert _maybe_plan(QWEN3, [user, {"role": "assistant", "content": "Well, <b>"}]) is None
    assert _maybe_plan(QWEN3, [user, {"role": "assistant", "content": "<think>a</think>Well"}]) is None
    begun = _plan(QWEN3, [user, {"role": "assistant", "content": "<think>I gre"}])
    assert read_cut_anywhere(begun, "et.</think>Hello!") == [Reasoning("et."), "Hello!"]
    final = _plan(GPT_OSS, [user, {"role": "assistant", "content": "Well"}])
    assert read_cut_anywhere(final, ", to=you") == [", to=you"]


def test_a_parser_of_the_settings_wins_over_the_template() -> None:
    thought = [Reasoning("I greet."), "Hello!"]
    qwen = _plan(TURNS, as_tokens=False, reasoning_parser="qwen3")
    assert read_cut_anywhere(qwen, "<think>I greet.</think>Hello!") == thought
    r1 = _plan(TURNS + BEGIN + "{% endif %}", as_tokens=False, reasoning_parser="deepseek_r1")
    assert read_cut_anywhere(r1, "I greet.</think>Hello!") == thought
    assert read_cut_anywhere(_plan(QWEN3, reasoning_parser="mistral"), "[THINK]I greet.[/THINK]Hello!") == thought


def test_the_tokens_of_a_model_show_that_it_thinks_if_its_template_does_not() -> None:
    assert read_cut_anywhere(_plan(TURNS), "<think>I greet.</think>Hello!") == [Reasoning("I greet."), "Hello!"]


# Grammars


@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize(
    ("template", "thought"),
    [(QWEN3, "<think>\nSo < {}.\n</think>\n\n"), (R1, "So < {}.\n</think>\n\n")],
)
def test_a_forced_call_may_think_first(template: str, thought: str, as_tokens: bool) -> None:
    tokenizer = _tokenizer(template, as_tokens)
    required = Walk(tokenizer, _plan(template, {**WITH_TOOL, "tool_choice": "required"}, as_tokens))
    assert required.allows(thought + CALL)
    assert required.allows(CALL) is (template == QWEN3)
    assert not required.allows(thought + "Hello")
    assert not required.allows(thought)
    auto = Walk(tokenizer, _plan(template, WITH_TOOL, as_tokens))
    for text in (thought + CALL, thought + "Hello", thought, thought.split("\n</")[0]):
        assert auto.allows(text), text
    # As text, the beginning of a call is one, because the answer might not think.
    assert not as_tokens or auto.allows(thought.replace("So", '<tool_call>{"name": "news"'))
    assert not auto.allows(thought + CALL.replace("clock", "news"))


@pytest.mark.parametrize("as_tokens", [False, True])
def test_a_format_of_the_content_begins_after_the_reasoning(as_tokens: bool) -> None:
    content = "start: /[ab]+/"
    for template, thought in ((QWEN3, "<think>So.</think>\n\n"), (R1, "So.</think>\n"), (GRANITE, "")):
        walk = Walk(_tokenizer(template, as_tokens), _plan(template, as_tokens=as_tokens), content)
        assert walk.allows(f"{thought}abba")
        assert not walk.allows(f"{thought}abc")
        assert walk.allows("ab") is (template != R1)
        assert not walk.allows(thought)
    analysis = "<|channel|>analysis<|message|>So.<|end|><|start|>assistant"
    for plan in (_plan(GPT_OSS, as_tokens=as_tokens), _plan(GPT_OSS, WITH_TOOL, as_tokens=as_tokens)):
        walk = Walk(_tokenizer(GPT_OSS, as_tokens), plan, content)
        assert walk.allows(f"{analysis}<|channel|>final<|message|>abba")
        assert walk.allows("<|channel|>final<|message|>abba")
        assert not walk.allows(f"{analysis}<|channel|>final<|message|>abc")


def test_a_forced_call_of_gpt_oss_may_think_first() -> None:
    walk = Walk(_tokenizer(GPT_OSS), _plan(GPT_OSS, {**WITH_TOOL, "tool_choice": "required"}))
    analysis = "<|channel|>analysis<|message|>So.<|end|><|start|>assistant"
    call = "<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{}"
    for allowed in (call, analysis + call, analysis * 2 + call):
        assert walk.allows(allowed)
    assert not walk.allows(f"{analysis}<|channel|>final<|message|>Hi")


# Ends of a turn


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (QWEN3, {"<|im_end|>"}),
        (GPT_OSS, {"<|call|>", "<|return|>"}),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", set()),
        ("{{ raise_exception('no') }}", set()),
        (None, set()),
    ],
)
def test_the_token_with_which_a_template_ends_a_turn_ends_an_answer(template: Any, expected: set[str]) -> None:
    tokenizer = _tokenizer(template)
    ends = {tokenizer.convert_ids_to_tokens(token) for token in AnswerFormat(tokenizer).end_ids}
    assert ends == {"<|endoftext|>", *expected}
    assert AnswerFormat(tokenizer, vocabulary=2).end_ids == {0}


# The log


def test_a_notation_that_is_not_known_is_logged_once_while_the_model_loads(caplog: pytest.LogCaptureFixture) -> None:
    strange = TURNS + "{% for t in tools or [] %}!!{{ t.function.name }}{% endfor %}"
    for template, parser, lines in (
        (strange, None, 1),
        (strange, "hermes", 0),
        (strange + "{# <tool_call> #}", None, 0),
        (TURNS, None, 0),
        (GPT_OSS + "{{ tools }}", None, 0),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            AnswerFormat(_tokenizer(template), name="strange", tool_parser=parser)
        assert len(caplog.records) == lines, template
        assert lines == 0 or ("strange: " in caplog.text and "TOOL_PARSER" in caplog.text)

"""Promise: a chat is checked field by field, and its prompt shows the model all of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from hf_runtime.contract.chat import parse_chat
from hf_runtime.contract.errors import InvalidRequest
from runners.tasks.chat_prompt import tokenize_chat
from tests.tiny import byte_level_tokenizer

PLAIN = (
    "{% for m in messages %}[{{ m['role'] }}]{{ '' + m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
WITH_TOOLS = (
    "{% for t in tools or [] %}<{{ t.function.name }}:{{ t.function.parameters | tojson }}>{% endfor %}"
    "{% for m in messages %}[{{ m.role }}{{ ' ' + m.name if m.name }}{{ ' ' + m.tool_call_id if m.tool_call_id }}]"
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.id }}={{ c.function.name }}({{ c.function.arguments.city }})"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
USER = {"role": "user", "content": "Hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def _tokenizer(template: Any = PLAIN) -> PreTrainedTokenizerFast:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def _prompt(instance: Any, template: Any = PLAIN) -> str:
    tokenizer = _tokenizer(template)
    return str(tokenizer.decode(tokenize_chat(tokenizer, parse_chat(instance))))


# The instance


def test_a_list_of_messages_is_a_chat() -> None:
    chat = parse_chat([{"role": "developer", "content": "Be brief."}, USER, CALLING, RESULT])
    assert [message.role for message in chat.messages] == ["developer", "user", "assistant", "tool"]
    assert chat.choice == "none"
    assert not chat.continues_answer


def test_a_chat_that_ends_with_the_assistant_continues_its_message() -> None:
    assert parse_chat([USER, {"role": "assistant", "content": "Well"}]).continues_answer
    assert not parse_chat([USER, CALLING]).continues_answer


def test_arguments_are_an_object_or_one_as_json() -> None:
    given = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    for call in (CALL, given):
        (parsed,) = parse_chat([{"role": "assistant", "tool_calls": [call]}]).messages[0].tool_calls or []
        assert parsed.function.arguments == {"city": "Paris"}


def test_tools_stay_unchanged() -> None:
    strange = {"type": "function", "function": {"name": "x", "parameters": {"default": None}, "strict": True}}
    chat = parse_chat({"messages": [USER], "tools": [strange, CLOCK], "parallel_tool_calls": False})
    assert (chat.usable_tools, chat.choice, chat.parallel_tool_calls) == ([strange, CLOCK], "auto", False)


def test_a_choice_is_a_word_or_the_name_of_a_tool() -> None:
    named = {"type": "function", "function": {"name": "clock"}}
    for choice in ("none", "auto", "required", named):
        chat = parse_chat({"messages": [USER], "tools": [WEATHER, CLOCK], "tool_choice": choice})
        assert chat.choice == choice
        assert len(chat.usable_tools) == (0 if choice == "none" else 2)
    assert parse_chat({"messages": [USER], "tool_choice": "auto"}).choice == "none"


@pytest.mark.parametrize(
    ("instance", "begin"),
    [
        (7, "must be"),
        ([], "messages: "),
        (["a"], "messages[0]: "),
        ({"tools": []}, "messages: "),
        ([{"role": "robot", "content": "a"}], "messages[0].role: "),
        ([{"role": "user", "content": 1}], "messages[0].content: "),
        ([{"role": "user"}], "messages[0].content: field required"),
        ([USER, {"role": "user", "content": None}], "messages[1].content: field required"),
        ([{**USER, "tool_calls": [CALL]}], "messages[0].tool_calls: only an assistant"),
        ([{**USER, "image": "x"}], "messages[0].image: "),
        ([{**CALLING, "tool_calls": [{**CALL, "type": "x"}]}], "messages[0].tool_calls[0].type: "),
        ([{**CALLING, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "[]"}}]}],
         "messages[0].tool_calls[0].function.arguments: must be an object"),
        ([{**CALLING, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"a": "\\ud800"}'}}]}],
         "messages[0].tool_calls[0].function.arguments: must be an object"),
        ([{**CALLING, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]}],
         "messages[0].tool_calls[0].function.arguments: must be an object"),
        ({"messages": [USER], "tools": [{}]}, "tools[0].type: "),
        ({"messages": [USER], "tools": [{"type": "function", "function": {}}]}, "tools[0].function.name: "),
        ({"messages": [USER], "tools": [{**CLOCK, "function": {"name": "a b"}}]}, "tools[0].function.name: "),
        ({"messages": [USER], "tools": [CLOCK, CLOCK]}, "tools[1].function.name: there is another"),
        ({"messages": [USER], "tool_choice": "required"}, "tool_choice: there are no tools"),
        ({"messages": [USER], "tools": [CLOCK], "tool_choice": "maybe"}, "tool_choice: must be"),
        ({"messages": [USER], "tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice: there is no tool x"),
        ({"messages": [USER], "parallel_tool_calls": "yes"}, "parallel_tool_calls: "),
    ],
)  # fmt: skip
def test_a_wrong_chat_is_refused_by_the_name_of_its_field(instance: Any, begin: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(instance)
    assert caught.value.message.startswith(begin)


# The prompt


def test_the_prompt_is_the_rendered_template() -> None:
    assert _prompt([USER]) == "[user]Hello\n[assistant]"
    assert _prompt([USER, {"role": "assistant", "content": "Well"}]) == "[user]Hello\n[assistant]Well"


def test_a_template_without_developers_gets_them_as_the_system() -> None:
    chat = [{"role": "developer", "content": "Be brief."}, USER]
    assert _prompt(chat).startswith("[system]Be brief.")
    assert _prompt(chat, PLAIN + "{# developer #}").startswith("[developer]Be brief.")


def test_a_template_with_tools_gets_tools_calls_and_results() -> None:
    text = _prompt({"messages": [USER, CALLING, RESULT], "tools": [WEATHER]}, WITH_TOOLS)
    schema = json.dumps(SCHEMA)
    assert text == (
        f"<weather:{schema}>[user]Hello[assistant]call_1=weather(Paris)[tool weather call_1]sunny[assistant]"
    )


def test_a_tool_that_must_not_be_called_is_not_in_the_prompt() -> None:
    text = _prompt({"messages": [USER, CALLING, RESULT], "tools": [WEATHER], "tool_choice": "none"}, WITH_TOOLS)
    assert text == "[user]Hello[assistant]call_1=weather(Paris)[tool weather call_1]sunny[assistant]"


def test_a_template_without_tools_gets_them_described_in_words() -> None:
    text = _prompt({"messages": [USER, CALLING, RESULT, {**RESULT, "content": "warm"}], "tools": [WEATHER, CLOCK]})
    system, rest = text.split("</tool_call>\n[user]Hello\n")
    assert system.startswith("[system]# Tools\n")
    assert f"<tools>\n{json.dumps(WEATHER)}\n{json.dumps(CLOCK)}\n</tools>" in system
    assert '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n' in system
    assert rest == (
        '[assistant]<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        "[user]<tool_response>\nsunny\n</tool_response>\n<tool_response>\nwarm\n</tool_response>\n[assistant]"
    )


def test_the_description_of_tools_follows_the_system_message() -> None:
    text = _prompt({"messages": [{"role": "system", "content": "Be brief."}, USER], "tools": [CLOCK]})
    assert text.startswith("[system]Be brief.\n\n# Tools\n")
    assert text.count("[system]") == 1


def test_earlier_calls_are_described_in_words_even_without_tools() -> None:
    text = _prompt([USER, CALLING, RESULT])
    assert "<tool_call>" in text
    assert "# Tools" not in text


def test_calls_have_ids_that_mistrals_templates_accept() -> None:
    template = WITH_TOOLS + "{# length 9 #}"
    text = _prompt([USER, CALLING, RESULT], template)
    call_id = text.split("[assistant]")[1].split("=")[0]
    assert len(call_id) == 9
    assert call_id.isalnum()
    assert f"[tool weather {call_id}]" in text
    nine = [USER, {**CALLING, "tool_calls": [{**CALL, "id": "abcdefgh1"}]}]
    assert "abcdefgh1=" in _prompt(nine, template)


def test_of_several_templates_the_one_for_tools_is_used() -> None:
    templates = {"default": PLAIN, "tool_use": WITH_TOOLS}
    assert _prompt([USER], templates).startswith("[user]Hello\n")
    assert _prompt({"messages": [USER], "tools": [WEATHER]}, templates).startswith("<weather:")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{{ messages[0].content + 7 }}", "does not accept"),
        ("", "no chat template"),
        ("{% if false %}x{% endif %}", "empty prompt"),
    ],
)
def test_a_chat_without_a_template_or_rejected_by_it_is_refused(template: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^messages: .*{reason}"):
        _prompt([USER], template)

"""Promise: a template that does not take a chat in one form gets it in another before the request is refused."""

from __future__ import annotations

from typing import Any

import pytest

from hf_runtime.contract.chat import parse_chat
from hf_runtime.contract.errors import InvalidRequest
from runners.tasks.chat_prompt import tokenize_chat
from tests.tiny import byte_level_tokenizer

USER = {"role": "user", "content": "Weather in Paris?"}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CALLING = {
    "role": "assistant", "content": None,
    "tool_calls": [{"id": "call_1", "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}],
}  # fmt: skip
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TOOLS = "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
FUNCTIONARY = (
    TOOLS + "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '<function=' + c.function.name + '>' + c.function.arguments + '</function>' }}{% endfor %}{% endfor %}"
)


def _prompt(template: str, instance: Any) -> str:
    tokenizer = byte_level_tokenizer(4096)
    tokenizer.chat_template = template
    return str(tokenizer.decode(tokenize_chat(tokenizer, parse_chat(instance))))


@pytest.mark.parametrize(
    "template",
    [FUNCTIONARY, FUNCTIONARY.replace("+ c.function.arguments +", "~ c.function.arguments ~")],
)
def test_arguments_that_a_template_joins_as_text_are_json(template: str) -> None:
    prompt = _prompt(template, {"messages": [USER, CALLING, RESULT], "tools": [TOOL]})
    assert '<function=get_weather>{"city": "Paris"}</function>' in prompt


def test_arguments_that_a_template_writes_as_json_are_an_object() -> None:
    template = FUNCTIONARY.replace("+ c.function.arguments +", "+ (c.function.arguments | tojson) +")
    assert '>{"city": "Paris"}<' in _prompt(template, {"messages": [USER, CALLING, RESULT], "tools": [TOOL]})


REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS
LEAVES_OUT = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"


@pytest.mark.parametrize("template", [REFUSES, LEAVES_OUT])
def test_tools_are_in_the_first_user_turn_where_there_is_no_system_role(template: str) -> None:
    prompt = _prompt(template, {"messages": [USER, CALLING, RESULT], "tools": [TOOL]})
    assert prompt.startswith("[user]# Tools")
    assert "Weather in Paris?[assistant]<tool_call>" in prompt
    assert '"name": "get_weather"' in prompt


def test_the_words_of_a_system_message_are_in_the_first_user_turn_where_there_is_no_system_role() -> None:
    chat = [{"role": "system", "content": "Be brief."}, USER]
    assert _prompt(REFUSES, chat) == "[user]Be brief.\n\nWeather in Paris?"
    assert _prompt(TURNS, chat) == "[system]Be brief.[user]Weather in Paris?"


def test_a_chat_that_fits_no_form_is_refused_with_the_first_reason() -> None:
    with pytest.raises(InvalidRequest, match=r"^messages: .*System role not supported"):
        _prompt("{{ raise_exception('System role not supported') }}", [{"role": "system", "content": "x"}, USER])


def test_the_ids_of_kimi_are_the_names_and_numbers_of_its_calls() -> None:
    template = FUNCTIONARY.replace("{{ '<f", "{{ c.id + '<f") + "{# <|tool_call_argument_begin|> #}"
    template = template.replace("[{{ m.role }}]", "[{{ m.role }}{{ m.tool_call_id }}]")
    prompt = _prompt(template, {"messages": [USER, CALLING, RESULT, CALLING], "tools": [TOOL]})
    assert "functions.get_weather:0<function=" in prompt
    assert "[toolfunctions.get_weather:0]sunny" in prompt
    assert "functions.get_weather:1<function=" in prompt


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_earlier_reasoning_reaches_templates_that_read_it(name: str) -> None:
    template = "{% for m in messages %}[{{ m.role }}]{{ m.reasoning_content }}|{{ m.content }}{% endfor %}"
    said = {"role": "assistant", "content": "Hi.", name: "I greet."}
    assert _prompt(template, [USER, said, USER]).endswith("[assistant]I greet.|Hi.[user]|Weather in Paris?")
    gpt_oss = "{% for message in messages %}{{ message.thinking }}{% endfor %}"
    assert _prompt(gpt_oss, [USER, said, USER]) == "I greet."
    both = {**said, "reasoning": "I greet.", "reasoning_content": "I greet."}
    assert "I greet.|Hi." in _prompt(template, [USER, both, USER])


def test_variables_of_the_client_reach_the_template() -> None:
    template = TURNS + "{{ enable_thinking }} {{ thinking }} {{ reasoning_effort }}"
    chat = {"messages": [USER]}
    kwargs = {"enable_thinking": True}
    assert _prompt(template, {**chat, "chat_template_kwargs": kwargs}).endswith("?True  ")
    assert _prompt(template, {**chat, "reasoning_effort": "high"}).endswith("?  high")
    assert _prompt(template, {**chat, "reasoning_effort": "none"}).endswith("?False False none")
    both = {**chat, "reasoning_effort": "none", "chat_template_kwargs": kwargs}
    assert _prompt(template, both).endswith("?True False none")
    for name in ("messages", "tools", "tokenize", "chat_template", "add_generation_prompt"):
        with pytest.raises(InvalidRequest, match=rf"^chat_template_kwargs.{name}: "):
            _prompt(template, {**chat, "chat_template_kwargs": {name: 1}})
    wrong = "{{ 1 / n }}{{ x.y.z }}"
    with pytest.raises(InvalidRequest, match=r"^messages: "):
        _prompt(TURNS + wrong, {**chat, "chat_template_kwargs": {"n": 0}})


def test_a_client_says_whether_an_answer_begins_or_goes_on() -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}{% if add_generation_prompt %}[go]{% endif %}"
    )
    begun = {"messages": [USER, {"role": "assistant", "content": "Well"}]}
    assert _prompt(template, begun).endswith("[assistant]Well")
    assert _prompt(template, {**begun, "add_generation_prompt": True}).endswith("[assistant]Well;[go]")
    assert _prompt(template, {**begun, "continue_final_message": False}).endswith("[assistant]Well;[go]")
    assert _prompt(template, {**begun, "add_generation_prompt": False}).endswith("[assistant]Well;")
    asked = {"messages": [USER], "add_generation_prompt": False}
    assert _prompt(template, asked).endswith("Paris?;")
    for fields in ({"add_generation_prompt": True}, {"messages": [USER]}):
        with pytest.raises(InvalidRequest, match=r"^continue_final_message: "):
            _prompt(template, {**begun, "continue_final_message": True, **fields})

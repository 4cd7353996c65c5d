"""Promise: OpenAI's own client gets chat completions as from OpenAI."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from tests.hf_runtime.api.openai_server import Server, generated_result, token

HELLO: Any = [{"role": "user", "content": "Hello"}]
DEFAULTS = {
    "details": True, "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "return_full_text": False,
    "fill_context": True,
}  # fmt: skip
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": ["string", "null"], "default": None}}},
    },
}
CALLS = [{"name": "weather", "arguments": '{"city": "Graz"}'}, {"name": "weather", "arguments": "{}"}]


def _ask(server: Server, **fields: Any) -> Any:
    return server.openai.chat.completions.create(**{"model": "writer", "messages": HELLO, **fields})


def test_a_chat_is_one_item_with_the_defaults_of_openai_and_the_whole_context_to_fill(server: Server) -> None:
    _ask(server)
    assert server.writer.submitted == [({"messages": HELLO}, DEFAULTS)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_tokens": 5}, {"max_new_tokens": 5}),
        ({"max_completion_tokens": 6}, {"max_new_tokens": 6}),
        ({"max_completion_tokens": 6, "max_tokens": 5}, {"max_new_tokens": 6}),
        ({"logprobs": False}, {"fill_context": True}),
        ({"logprobs": True}, {"fill_context": True, "logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 20}, {"fill_context": True, "logprobs": 20}),
        ({"response_format": {"type": "text"}}, {"fill_context": True}),
        (
            {"response_format": {"type": "json_object"}},
            {"fill_context": True, "response_format": {"type": "json_object"}},
        ),
        ({"seed": 1, "stop": "x", "modalities": ["text"]}, {"fill_context": True, "seed": 1, "stop": ["x"]}),
        (
            {
                "metadata": {"a": "b"}, "prompt_cache_key": "k", "reasoning_effort": "low", "safety_identifier": "s",
                "service_tier": "auto", "store": False, "user": "me", "verbosity": "low",
            },
            {"fill_context": True},
        ),
    ],
)  # fmt: skip
def test_fields_reach_the_model_under_its_own_names(server: Server, given: Any, told: Any) -> None:
    _ask(server, **given)
    expected = {name: value for name, value in DEFAULTS.items() if name != "fill_context"} | told
    assert server.writer.parameters == [expected]


def test_an_answer_is_a_chat_completion_object(server: Server) -> None:
    server.writer.script = lambda _: [generated_result("Hi.", prompt=9, generated=2, cached_tokens=8)]
    answer = server.http.post("/openai/v1/chat/completions", json={"model": "writer", "messages": HELLO}).json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "chat.completion",
        "model": "writer",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 8},
        },
        "system_fingerprint": None,
    }  # fmt: skip


def test_each_choice_is_an_item_and_the_prompt_is_counted_once(server: Server) -> None:
    server.writer.script = lambda index: [generated_result(str(index), prompt=9, generated=2)]
    answer = _ask(server, n=3, seed=2**63 - 1)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, "0"), (1, "1"), (2, "2")]
    assert [parameters["seed"] for parameters in server.writer.parameters] == [2**63 - 1, 0, 1]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (9, 6)


def test_every_role_reaches_the_model_and_text_parts_are_joined(server: Server) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be wise."}]},
        {"role": "user", "content": "", "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "call_1"},
    ]
    _ask(server, messages=messages)
    assert server.writer.instances[0]["messages"] == [
        messages[0],
        {"role": "system", "content": "Be kind.\nBe wise."},
        messages[2],
        {"role": "assistant", "tool_calls": [{**call, "function": {"name": "f", "arguments": {}}}]},
        messages[4],
    ]


def test_tools_reach_the_model_unchanged(server: Server) -> None:
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    _ask(server, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)
    _ask(server, tools=[WEATHER], tool_choice="required")
    _ask(server, tools=[WEATHER])
    _ask(server, tools=[], tool_choice="none")
    assert server.writer.instances == [
        {"messages": HELLO, "tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False},
        {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required"},
        {"messages": HELLO, "tools": [WEATHER]},
        {"messages": HELLO},
    ]


@pytest.mark.parametrize(("text", "content"), [("", None), ("Let me see.", "Let me see.")])
def test_tool_calls_are_answered_and_can_be_sent_back_with_their_results(
    server: Server, text: str, content: str | None
) -> None:
    server.writer.script = lambda _: [generated_result(text, tool_calls=CALLS)]
    (choice,) = _ask(server, tools=[WEATHER]).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", content)
    calls = choice.message.tool_calls
    assert [(call.type, call.function.name, call.function.arguments) for call in calls] == [
        ("function", call["name"], call["arguments"]) for call in CALLS
    ]
    assert len({call.id for call in calls}) == 2

    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    _ask(server, messages=[*HELLO, choice.message, *results])
    _ask(server, messages=[*HELLO, choice.message.model_dump(), *results])
    called = [
        {"id": call.id, "type": "function", "function": {**given, "arguments": json.loads(given["arguments"])}}
        for call, given in zip(calls, CALLS, strict=True)
    ]
    said = {"content": content} if content is not None else {}
    expected = [*HELLO, {"role": "assistant", **said, "tool_calls": called}, *results]
    assert [instance["messages"] for instance in server.writer.instances[1:]] == [expected, expected]


class City(BaseModel):
    name: str


def test_the_official_client_parses_answers_into_classes(server: Server) -> None:
    server.writer.script = lambda _: [generated_result('{"name": "Graz"}')]
    answer = server.openai.chat.completions.parse(model="writer", messages=HELLO, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Graz")
    told = server.writer.parameters[0]["response_format"]
    assert (told["type"], told["json_schema"]["name"], told["json_schema"]["strict"]) == ("json_schema", "City", True)


def test_logprobs_name_every_token_and_its_alternatives(server: Server) -> None:
    tokens = [token("é", -0.5, ("é", -0.5), ("e", -1.5)), token("\ufffd", float("-inf"), raw=b"\x99")]
    server.writer.script = lambda _: [generated_result("é", logprobs=tokens)]
    (choice,) = _ask(server, logprobs=True, top_logprobs=2).choices
    assert choice.logprobs.to_dict() == {
        "content": [
            {
                "token": "é", "logprob": -0.5, "bytes": [195, 169],
                "top_logprobs": [
                    {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
                    {"token": "e", "logprob": -1.5, "bytes": [101]},
                ],
            },
            {"token": "\ufffd", "logprob": -9999.0, "bytes": [153], "top_logprobs": []},
        ],
        "refusal": None,
    }  # fmt: skip


def test_a_stream_sends_the_role_then_the_content_then_the_finish_reason(server: Server) -> None:
    server.writer.script = lambda _: [
        {"generated_text": "Hi"},
        {"generated_text": ""},
        {"generated_text": "", "logprobs": [token("!", -1.0)]},
        generated_result("!", "length"),
    ]
    events = server.events("chat/completions", model="writer", messages=HELLO)
    assert len({(event["id"], event["created"]) for event in events}) == 1
    assert [set(event) for event in events] == [
        {"id", "object", "created", "model", "choices", "system_fingerprint"}
    ] * 5
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    choices = [event["choices"][0] for event in events]
    assert [(choice["delta"], choice["finish_reason"]) for choice in choices] == [
        ({"role": "assistant", "content": "", "refusal": None}, None),
        ({"content": "Hi"}, None),
        ({"content": ""}, None),
        ({"content": "!"}, None),
        ({}, "length"),
    ]
    assert [choice["logprobs"] and choice["logprobs"]["content"][0]["token"] for choice in choices] == [
        None, None, "!", None, None,
    ]  # fmt: skip


def test_a_stream_of_calls_numbers_them_and_ends_with_their_reason(server: Server) -> None:
    server.writer.script = lambda _: [
        {"generated_text": "Let me see."},
        {"generated_text": "", "tool_calls": CALLS[:1]},
        generated_result("", tool_calls=CALLS[1:]),
    ]
    events = server.events("chat/completions", model="writer", messages=HELLO, tools=[WEATHER], n=2)
    for index in (0, 1):
        choices = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        deltas = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
        assert [(call["index"], call["type"], call["function"]) for call in deltas] == [
            (number, "function", call) for number, call in enumerate(CALLS)
        ]
        assert choices[-1]["finish_reason"] == "tool_calls"


def test_the_official_client_assembles_a_stream(server: Server) -> None:
    server.writer.script = lambda _: [
        {"generated_text": "Let me "},
        {"generated_text": "see.", "tool_calls": CALLS[:1]},
        generated_result("", prompt=4, generated=6, tool_calls=CALLS[1:]),
    ]
    with server.openai.chat.completions.stream(
        model="writer", messages=HELLO, tools=[WEATHER], n=2, stream_options={"include_usage": True}
    ) as stream:
        answer = stream.get_final_completion()
    for choice in answer.choices:
        assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
        assert [
            {"name": call.function.name, "arguments": call.function.arguments}
            for call in choice.message.tool_calls or []
        ] == CALLS
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 12, 16)


def _user(**fields: Any) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello", **fields}]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"messages": None}, "messages", "Field required"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "Hello"}, "messages", "valid list"),
        ({"messages": ["Hello"]}, "messages[0]", "messages[0]: "),
        ({"messages": _user(role="wizard")}, "messages[1].role", "(given: 'wizard')"),
        ({"messages": _user(content=5)}, "messages[1].content", "string or a list of text parts"),
        ({"messages": _user(content=None)}, "messages[1].content", "required"),
        ({"messages": _user(tool_calls=[{"id": "1", "function": {"name": "f", "arguments": "{}"}}])},
         "messages[1].tool_calls", "only an assistant"),
        ({"messages": _user(role="tool")}, "messages[1].tool_call_id", "required"),
        ({"messages": _user(content=[{"type": "image_url", "image_url": {"url": "data:"}}])},
         "messages[1].content[0].type", "(given: 'image_url')"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "greater than or equal to 1"),
        ({"logprobs": 5}, "logprobs", "valid boolean"),
        ({"top_logprobs": 5}, "top_logprobs", "only allowed when logprobs is true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "(given: 'custom')"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "required"),
        ({"tool_choice": "auto"}, "tool_choice", "only allowed when tools are given"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls", "only allowed when tools are given"),
        ({"tools": [WEATHER], "tool_choice": "maybe"}, "tool_choice", "must be"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "must be"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice", "there is no tool x, but weather"),
        ({"response_format": "json"}, "response_format", "valid dictionary"),
        ({"modalities": ["text", "audio"]}, "modalities[1]", "(given: 'audio')"),
        ({"audio": {"voice": "alloy"}}, "audio", "not supported"),
        ({"functions": [{"name": "f"}]}, "functions", "use tools"),
        ({"function_call": "auto"}, "function_call", "use tool_choice"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction", "not supported"),
        ({"web_search_options": {}}, "web_search_options", "not supported"),
        ({"moderation": {"model": "m"}}, "moderation", "not supported"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_a_400_that_names_it(server: Server, fields: Any, param: str, message: str) -> None:
    body = {"model": "writer", "messages": HELLO, **fields}
    response = server.http.post("/openai/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert message in error["message"]
    assert server.writer.submitted == []

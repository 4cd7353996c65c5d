"""Promises of a chat's history: messages and tools as clients send them back, with the fields of other servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hf_runtime.contract.chat import parse_chat
from hf_runtime.contract.errors import InvalidRequest
from tests.hf_runtime.api.openai_server import Server, serving

HELLO: Any = {"role": "user", "content": "Hello"}
CALL: Any = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": null}'}}
CALLED: Any = {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {"a": None}}}]}
RESULT: Any = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


def _told(server: Server, messages: list[Any], **fields: Any) -> Any:
    """The messages that reach the model; nothing of them was unknown."""
    response = server.http.post("/v1/chat/completions", json={"model": "writer", "messages": messages, **fields})
    assert response.status_code == 200, response.text
    assert "x-ignored-fields" not in response.headers
    return server.writer.instances[-1]["messages"]


def _call(**changed: Any) -> Any:
    return {**CALL, **changed}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"tool_calls": [_call(index=0)]}, CALLED),
        ({"tool_calls": [_call(provider_specific_fields={"x": 1}, extra_content={}, cache_control=None)]}, CALLED),
        ({"tool_calls": [_call(type=None)]}, CALLED),
        ({"tool_calls": [None, _call(), None]}, CALLED),
        ({"tool_calls": [_call(function={**CALL["function"], "parsed_arguments": {"a": None}})]}, CALLED),
        ({"content": None, "refusal": None, "audio": None, "function_call": None, "annotations": [], "name": None,
          "tool_calls": [_call()]}, CALLED),
        ({"content": "Hi", "annotations": [{"type": "url_citation"}], "provider_specific_fields": {"refusal": None},
          "id": "msg_1", "status": "completed", "parsed": {"a": 1}, "index": 0, "finish_reason": "stop",
          "function_call": {}, "audio": {}, "thinking_blocks": [{"type": "thinking"}], "tool_calls": []},
         {"content": "Hi"}),
        ({"content": "Hi", "reasoning_content": "I greet."}, {"content": "Hi", "reasoning_content": "I greet."}),
        ({"content": "Hi", "reasoning": "I greet."}, {"content": "Hi", "reasoning_content": "I greet."}),
        ({"content": "Hi", "reasoning": "Not this.", "reasoning_content": "I greet."},
         {"content": "Hi", "reasoning_content": "I greet."}),
        ({"content": "Hi", "reasoning": None, "reasoning_content": None}, {"content": "Hi"}),
        ({"content": "Hi", "reasoning": "", "reasoning_content": ""}, {"content": "Hi"}),
        ({"content": "Hi", "reasoning": "I greet.", "reasoning_content": ""},
         {"content": "Hi", "reasoning_content": "I greet."}),
        ({"content": "Hi", "reasoning": {"text": "x"}, "reasoning_details": [{}]}, {"content": "Hi"}),
        ({"content": None, "refusal": "I will not."}, {"content": "I will not."}),
        ({"content": "Hi", "refusal": "I will not."}, {"content": "Hi"}),
        ({"content": None}, {}),
        ({}, {}),
        ({"content": ""}, {"content": ""}),
        ({"content": [{"type": "text", "text": "Hi", "annotations": None, "cache_control": {"type": "ephemeral"}}]},
         {"content": "Hi"}),
        ({"content": [None, {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}, "there"]},
         {"content": "Hi\nthere"}),
        ({"content": [{"type": "refusal", "refusal": "I will not."}]}, {"content": "I will not."}),
        ({"content": "Hi", "cache_control": {"type": "ephemeral"}}, {"content": "Hi"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("unknown", ["ignore", "refuse"])
def test_a_turn_of_the_assistant_comes_back_with_what_clients_add(unknown: str, message: Any, told: Any) -> None:
    with serving(OPENAI_UNKNOWN_FIELDS=unknown) as server:
        answer = {"role": "assistant", **message}
        results = [RESULT] if message.get("tool_calls") else []
        expected = [HELLO, {"role": "assistant", **told}, *results, HELLO]
        assert _told(server, [HELLO, answer, *results, HELLO]) == expected


@pytest.mark.parametrize("arguments", ["", "  ", "{}", {}, None, "null"])
def test_arguments_that_are_nothing_are_an_empty_object(server: Server, arguments: Any) -> None:
    answer = {"role": "assistant", "tool_calls": [_call(function={"name": "f", "arguments": arguments})]}
    told = _told(server, [HELLO, answer, RESULT])
    assert told[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


@pytest.mark.parametrize("arguments", ["x", "[]", '"{}"', "5", 5, [], "{"])
def test_arguments_that_are_no_object_are_named(server: Server, arguments: Any) -> None:
    answer = {"role": "assistant", "tool_calls": [_call(function={"name": "f", "arguments": arguments})]}
    response = server.http.post("/v1/chat/completions", json={"model": "writer", "messages": [HELLO, answer, RESULT]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[1].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    "last",
    [
        {"content": ""}, {"content": None}, {}, {"content": []}, {"content": "", "tool_calls": []},
        {"content": [{"type": "text", "text": ""}], "refusal": None}, {"content": "", "reasoning_content": None},
    ],
)  # fmt: skip
def test_an_empty_turn_of_the_assistant_at_the_end_is_none(server: Server, last: Any) -> None:
    assert _told(server, [HELLO, {"role": "assistant", **last}]) == [HELLO]
    assert not parse_chat([HELLO, {"role": "assistant", **last}]).continues_answer
    alone = server.http.post(
        "/v1/chat/completions", json={"model": "writer", "messages": [{"role": "assistant", **last}]}
    )
    assert (alone.status_code, alone.json()["error"]["param"]) == (400, "messages")


def test_a_begun_turn_of_the_assistant_is_kept(server: Server) -> None:
    begun = {"role": "assistant", "content": "The answer is"}
    assert _told(server, [HELLO, begun]) == [HELLO, begun]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}, "content[0].type"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "content[0].type"),
        ({"role": "assistant", "content": "Hi", "audio": {"id": "audio_1"}}, "audio"),
        ({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}, "function_call"),
        ({"role": "assistant", "content": "Hi", "reasoning_content": 5}, "reasoning_content"),
        ({"role": "user", "content": None}, "content"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "content[0].text"),
        ({"role": "user", "content": [{"type": "output_text"}]}, "content[0].text"),
        ({"role": "function", "name": "f", "content": "x"}, "role"),
    ],
)
def test_what_would_be_lost_is_a_400_that_names_the_clients_field(server: Server, message: Any, field: str) -> None:
    response = server.http.post("/v1/chat/completions", json={"model": "writer", "messages": [HELLO, message]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, f"messages[1].{field}")


SCHEMA: Any = {
    "type": "object",
    "properties": {"default": {"type": "null"}, "b": {"enum": [None, 1], "default": None, "const": None}},
    "required": ["b"],
}


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        ({"description": None, "parameters": None, "strict": None}, {}),
        ({"parameters": {**SCHEMA, "title": None, "description": None}}, {"parameters": SCHEMA}),
        ({"parameters": {"type": "object", "properties": {"a": {"type": "string", "enum": None, "items": None}}}},
         {"parameters": {"type": "object", "properties": {"a": {"type": "string", "enum": None}}}}),
        ({"cache_control": {"type": "ephemeral"}}, {}),
    ],
)  # fmt: skip
def test_null_in_a_tool_is_nothing_and_in_data_of_its_schema_it_is_null(server: Server, tool: Any, told: Any) -> None:
    given = {"type": "function", "cache_control": None, "function": {"name": "f", **tool}}
    _told(server, [HELLO], tools=[given])
    expected = [{"type": "function", "function": {"name": "f", **told}}]
    assert server.writer.instances[0]["tools"] == expected


def test_a_choice_of_a_tool_may_hold_nulls_and_the_whole_tool(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
    choice = {"type": "function", "cache_control": None, "function": {**tool["function"], "description": None}}  # type: ignore[dict-item]
    _told(server, [HELLO], tools=[tool], tool_choice=choice)
    assert server.writer.instances[0]["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_a_schema_of_any_depth_is_no_crash(server: Server) -> None:
    schema: Any = {"type": "object"}
    for _ in range(400):
        schema = {"type": "object", "properties": {"a": schema, "b": None}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    body = {"model": "writer", "messages": [HELLO], "tools": [tool]}
    assert server.http.post("/v1/chat/completions", json=body).status_code == 200


def test_a_chat_of_kserves_protocols_refuses_what_nobody_knows() -> None:
    for chat in (
        [{**HELLO, "mood": "merry"}],
        {"messages": [HELLO], "foo": 1},
        {"messages": [HELLO], "tools": [{"type": "function", "function": {"name": "f"}, "x": 1}]},
    ):
        with pytest.raises(InvalidRequest, match="Extra inputs"):
            parse_chat(chat)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [HELLO, {"role": "assistant", "content": None, "tool_calls": [_call(index=0)]}, RESULT]},
        {"messages": [HELLO, {"role": "assistant", "content": "Hi", "reasoning_content": "I greet."}, HELLO]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "annotations": None}]}]},
        {"messages": [HELLO], "stream": True, "stream_options": {"include_usage": None}},
    ],
    ids=["index of a call", "thoughts", "null within a part", "null within options"],
)
def test_requests_of_the_field_are_answered(server: Server, fields: Any) -> None:
    response = server.http.post("/openai/v1/chat/completions", json={"model": "writer", "temperature": 0, **fields})
    assert response.status_code == 200
    assert json.dumps(response.headers.get("x-ignored-fields")) == "null"

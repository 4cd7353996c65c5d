"""Promises of Anthropic's Messages API, as its own client sees them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import orjson
import pytest
from anthropic import Anthropic
from pydantic import BaseModel

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, ModelNotReady, Overloaded
from tests.hf_runtime.api.openai_server import Server, generated_result, serving

DEFAULTS = {
    "details": True, "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "return_full_text": False,
    "max_new_tokens": 9,
}  # fmt: skip
HELLO: Any = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": ["string", "null"], "default": None}}}
WEATHER: Any = {"name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}
AS_CHAT = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA},
}
CALLS = [{"name": "weather", "arguments": '{"city": "Graz"}'}, {"name": "weather", "arguments": "{}"}]
PATHS = ("/v1/messages", "/openai/v1/messages", "/anthropic/v1/messages")


@pytest.fixture
def client(server: Server) -> Iterator[Anthropic]:
    with Anthropic(base_url="http://testserver", api_key="none", http_client=server.http, max_retries=0) as client:
        yield client


def _ask(client: Anthropic, **fields: Any) -> Any:
    return client.messages.create(**{"model": "writer", "max_tokens": 9, "messages": HELLO, **fields})


def _post(server: Server, path: str = "/v1/messages", **fields: Any) -> Any:
    return server.http.post(path, json={"model": "writer", "max_tokens": 9, "messages": HELLO, **fields})


def _events(server: Server, **fields: Any) -> list[Any]:
    """The events of a stream, whose names are right."""
    response = _post(server, **fields, stream=True)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *blocks, nothing = response.text.split("\n\n")
    assert nothing == ""
    events = []
    for block in blocks:
        name, data = block.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_is_a_message(server: Server, path: str) -> None:
    server.writer.script = lambda _: [generated_result("Hi.", prompt=9, generated=2, cached_tokens=8)]
    answer = _post(server, path).json()
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message", "role": "assistant", "model": "writer", "content": [{"type": "text", "text": "Hi."}],
        "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {
            "input_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 8, "output_tokens": 2,
        },
    }  # fmt: skip
    assert server.writer.submitted == [({"messages": HELLO}, DEFAULTS)]


def test_the_official_client_reads_an_answer(server: Server, client: Anthropic) -> None:
    server.writer.script = lambda _: [generated_result("Hi.", reasoning="A greeting.", tool_calls=CALLS)]
    answer = _ask(client, tools=[WEATHER])
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (answer.content[0].thinking, answer.content[0].signature, answer.content[1].text) == (
        "A greeting.",
        "",
        "Hi.",
    )
    assert [(block.name, block.input) for block in answer.content[2:]] == [
        ("weather", {"city": "Graz"}),
        ("weather", {}),
    ]
    assert answer.content[2].id.startswith("toolu_")
    assert answer.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 7}, {"temperature": 0.5, "top_p": 0.9, "top_k": 7}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"const": None}}}},
            {"response_format": {
                "type": "json_schema", "json_schema": {"name": "answer", "schema": {"const": None}, "strict": True},
            }},
        ),
        (
            {
                "metadata": {"user_id": "me"}, "service_tier": "auto", "cache_control": {"type": "ephemeral"},
                "system": None, "thinking": None, "tool_choice": None, "tools": [], "stop_sequences": [],
                "output_config": {"format": None},
            },
            {},
        ),
    ],
)  # fmt: skip
def test_fields_reach_the_model_under_its_own_names(server: Server, given: Any, told: Any) -> None:
    assert _post(server, **given).status_code == 200
    left_out = {"temperature", "top_p", "top_k"} if told == {"do_sample": False} else set()
    expected = {name: value for name, value in DEFAULTS.items() if name not in left_out} | told
    assert server.writer.submitted == [({"messages": HELLO}, expected)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": {"type": "adaptive"}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({}, {}),
    ],
)
def test_thinking_reaches_the_template_only_if_it_is_sent(
    server: Server, client: Anthropic, given: Any, told: Any
) -> None:
    _ask(client, **given)
    assert server.writer.instances == [{"messages": HELLO, **told}]


def test_messages_become_turns(server: Server, client: Anthropic) -> None:
    text = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Graz"}}
    messages = [
        {"role": "user", "content": [text, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Why?", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                text,
                use,
                {**use, "id": "toolu_2"},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": [text, text], "is_error": True},
                {"type": "tool_result", "tool_use_id": "toolu_3"},
                {"type": "text", "text": "Well?"},
            ],
        },
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "dry"}]},
        {"role": "assistant", "content": "It is"},
    ]
    _ask(client, messages=messages, system=[{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be wise."}])

    def called(name: str) -> Any:
        return {"id": name, "type": "function", "function": {"name": "weather", "arguments": {"city": "Graz"}}}

    assert server.writer.instances[0]["messages"] == [
        {"role": "system", "content": "Be kind.\nBe wise."},
        {"role": "user", "content": "a\nb"},
        {
            "role": "assistant", "content": "a", "reasoning_content": "Why?",
            "tool_calls": [called("toolu_1"), called("toolu_2")],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "a\na"},
        {"role": "tool", "tool_call_id": "toolu_3", "content": ""},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "tool_calls": [called("toolu_1")]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "dry"},
        {"role": "assistant", "content": "It is"},
    ]  # fmt: skip


def test_an_answer_can_be_sent_back_with_the_results_of_its_calls(server: Server, client: Anthropic) -> None:
    server.writer.script = lambda _: [generated_result("Let me see.", reasoning="Hm.", tool_calls=CALLS)]
    answer = _ask(client, tools=[WEATHER])
    uses = [block for block in answer.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in uses]
    _ask(
        client,
        messages=[
            *HELLO,
            {"role": "assistant", "content": [block.model_dump() for block in answer.content]},
            {"role": "user", "content": results},
        ],
        tools=[WEATHER],
    )
    turns = server.writer.instances[1]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool"]
    assert [call["function"]["arguments"] for call in turns[1]["tool_calls"]] == [{"city": "Graz"}, {}]
    assert [turn["tool_call_id"] for turn in turns[2:]] == [use.id for use in uses]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"type": "auto"}, {"tool_choice": "auto", "parallel_tool_calls": True}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        ({"type": "none"}, {"tool_choice": "none", "parallel_tool_calls": True}),
        (
            {"type": "tool", "name": "weather"},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}, "parallel_tool_calls": True},
        ),
        (None, {}),
    ],
)
def test_tools_and_their_choice_reach_the_model(server: Server, choice: Any, told: Any) -> None:
    assert _post(server, tools=[WEATHER], tool_choice=choice).status_code == 200
    assert server.writer.instances == [{"messages": HELLO, "tools": [AS_CHAT], **told}]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role: "),
        ({"messages": [{"role": "user"}]}, "messages[0].content: "),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages[0].content[0].type: 'image' is not supported",
        ),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document"}]},
            ]}]},
            "messages[0].content[0].content[0].type: 'document' is not supported",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n"}]}]},
            "messages[0].content[0].input: Field required",
        ),
        ({"system": 7}, "system: "),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type: web_search_20250305"),
        ({"tools": [{"name": "n"}]}, "tools[0].input_schema: Field required"),
        ({"tool_choice": {"type": "any"}}, "tool_choice: there are no tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name: there is no tool x"),
        ({"thinking": {"type": "deep"}}, "thinking.type: "),
        ({"mcp_servers": []}, "mcp_servers: "),
        ({"model": "embedder"}, "model: embedder does feature-extraction"),
    ],
)  # fmt: skip
def test_what_is_wrong_or_not_offered_is_a_400_that_names_the_field(server: Server, fields: Any, said: str) -> None:
    response = _post(server, **fields)
    body = response.json()
    assert (response.status_code, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
    assert body["error"]["message"].startswith(said)
    assert server.writer.submitted == []


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("tools[0].function.parameters.properties.x", "tools[0].input_schema.properties.x"),
        ("parameters.response_format.json_schema.schema.x", "output_config.format.schema.x"),
        ("parameters.max_new_tokens", "max_tokens"),
        ("parameters.stop[0]", "stop_sequences[0]"),
        ("chat_template_kwargs", "thinking"),
        ("messages[3].content", "messages"),
    ],
)
def test_errors_of_the_model_name_the_fields_of_the_request(server: Server, field: str, named: str) -> None:
    server.writer.script = lambda _: InvalidRequest("is wrong", field=field)
    for stream in (False, True):
        response = _post(server, tools=[WEATHER], stream=stream)
        assert (response.status_code, response.json()["error"]["message"]) == (400, f"{named}: is wrong")


@pytest.mark.parametrize(
    ("error", "status", "kind", "raised"),
    [
        (Overloaded("full", retry_after=3), 429, "rate_limit_error", anthropic.RateLimitError),
        (ModelNotReady("loading", retry_after=3), 503, "overloaded_error", anthropic.ServiceUnavailableError),
        (InferenceFailed("failed"), 500, "api_error", anthropic.InternalServerError),
    ],
)
def test_errors_are_those_of_the_official_client(
    server: Server, client: Anthropic, error: Any, status: int, kind: str, raised: Any
) -> None:
    server.writer.script = lambda _: error
    response = server.http.post(
        "/v1/messages", json={"model": "writer", "max_tokens": 9, "messages": HELLO}, headers={"X-Request-Id": "mine"}
    )
    body = response.json()
    assert (response.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert body["request_id"] == response.headers["x-request-id"] == "mine"
    with pytest.raises(raised):
        _ask(client)


def test_every_error_of_these_paths_has_the_format_of_anthropic(server: Server) -> None:
    kinds = []
    for path in PATHS:
        answers = [server.http.get(path), _post(server, path, model="missing"), server.http.post(path, content="{")]
        answers.append(server.http.post(path, content=b"x" * 30_000))
        assert [answer.status_code for answer in answers] == [405, 404, 400, 413]
        kinds.append([answer.json()["error"]["type"] for answer in answers])
    expected = ["invalid_request_error", "not_found_error", "invalid_request_error", "request_too_large"]
    assert kinds == [expected] * len(PATHS)
    with serving(API_KEYS="secret") as guarded:
        for path in PATHS:
            refused = _post(guarded, path)
            assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
            body = {"model": "writer", "max_tokens": 9, "messages": HELLO}
            assert guarded.http.post(path, json=body, headers={"x-api-key": "secret"}).status_code == 200


@pytest.mark.parametrize(
    ("answer", "reason", "types"),
    [
        (generated_result("Hi"), "end_turn", ["text"]),
        (generated_result("Hi", "length"), "max_tokens", ["text"]),
        (generated_result("Hi", stop_sequence="x"), "stop_sequence", ["text"]),
        (generated_result("Hi", stop_sequence="<end>"), "end_turn", ["text"]),
        (generated_result(""), "end_turn", ["text"]),
        (generated_result("", "length", reasoning="Hm"), "max_tokens", ["thinking"]),
        (generated_result("", reasoning="Hm"), "end_turn", ["thinking", "text"]),
        (generated_result("", tool_calls=CALLS), "tool_use", ["tool_use", "tool_use"]),
        (generated_result("", "length", tool_calls=CALLS[:1]), "max_tokens", ["tool_use"]),
        (generated_result("So", reasoning="Hm", tool_calls=CALLS[:1]), "tool_use", ["thinking", "text", "tool_use"]),
    ],
)
def test_whole_and_streamed_answers_are_the_same_message(
    server: Server, client: Anthropic, answer: Any, reason: str, types: list[str]
) -> None:
    server.writer.script = lambda _: [answer]
    whole = _ask(client, stop_sequences=["x"])
    assert (whole.stop_reason, [block.type for block in whole.content]) == (reason, types)
    assert whole.stop_sequence == ("x" if reason == "stop_sequence" else None)
    cut = [{"generated_text": "", "reasoning": letter} for letter in answer.get("reasoning", "")]
    cut += [{"generated_text": letter} for letter in answer["generated_text"]]
    cut += [{"generated_text": "", "tool_calls": [call]} for call in answer.get("tool_calls", ())]
    rest = {key: value for key, value in answer.items() if key not in ("reasoning", "tool_calls")}

    def shape(message: Any) -> Any:
        content = [block.model_dump(exclude={"id", "parsed_output"}, exclude_none=True) for block in message.content]
        usage = message.usage.model_dump(exclude_none=True)
        return content, message.stop_reason, message.stop_sequence, usage, message.model, message.role

    for deltas in ([answer], [*cut, {**rest, "generated_text": ""}]):
        server.writer.script = lambda _, deltas=deltas: deltas  # type: ignore[misc]
        with client.messages.stream(model="writer", max_tokens=9, messages=HELLO, stop_sequences=["x"]) as stream:
            assert shape(stream.get_final_message()) == shape(whole)


def test_a_stream_has_the_events_of_the_api_in_their_order(server: Server) -> None:
    server.writer.script = lambda _: [
        {"generated_text": "", "reasoning": "H"},
        {"generated_text": "", "reasoning": "m"},
        {"generated_text": "Hi"},
        {"generated_text": "", "tool_calls": CALLS[:1]},
        generated_result("", prompt=9, generated=4),
    ]
    events = _events(server)
    shown = [
        (event["type"], event.get("index"), (event.get("content_block") or event.get("delta") or {}).get("type"))
        for event in events
    ]
    assert shown == [
        ("message_start", None, None),
        ("content_block_start", 0, "thinking"),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, "text"),
        ("content_block_delta", 1, "text_delta"),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, "tool_use"),
        ("content_block_delta", 2, "input_json_delta"),
        ("content_block_stop", 2, None),
        ("message_delta", None, None),
        ("message_stop", None, None),
    ]
    assert (events[0]["message"]["content"], events[0]["message"]["stop_reason"]) == ([], None)
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]) == (9, 4)


def test_a_stream_that_fails_ends_with_its_error(server: Server, client: Anthropic) -> None:
    server.writer.script = lambda _: [{"generated_text": "Hi"}, InferenceFailed("the model failed")]
    last = _events(server)[-1]
    assert (last["type"], last["error"]) == ("error", {"type": "api_error", "message": "the model failed"})
    with (
        pytest.raises(anthropic.APIStatusError),
        client.messages.stream(model="writer", max_tokens=9, messages=HELLO) as stream,
    ):
        stream.until_done()
    server.writer.script = lambda _: [{"generated_text": "Hi"}]
    assert _events(server)[-1]["type"] == "error"


class City(BaseModel):
    name: str


def test_the_official_client_parses_answers_into_classes(server: Server, client: Anthropic) -> None:
    server.writer.script = lambda _: [generated_result('{"name": "Graz"}')]
    answer = client.messages.parse(model="writer", max_tokens=9, messages=HELLO, output_format=City)
    assert answer.parsed_output == City(name="Graz")
    assert server.writer.parameters[0]["response_format"]["json_schema"]["schema"]["required"] == ["name"]

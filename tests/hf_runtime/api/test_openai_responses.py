"""Promises of OpenAI's Responses API, as its own client sees them."""

from __future__ import annotations

from typing import Any

import openai
import orjson
import pytest
from pydantic import BaseModel

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, Overloaded
from tests.hf_runtime.api.openai_server import Server, generated_result, serving, token

DEFAULTS = {
    "details": True, "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "return_full_text": False,
    "fill_context": True,
}  # fmt: skip
HELLO: Any = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": ["string", "null"], "default": None}}}
WEATHER: Any = {"type": "function", "name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}
AS_CHAT = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA, "strict": True},
}
CALLS = [{"name": "weather", "arguments": '{"city": "Graz"}'}, {"name": "weather", "arguments": "{}"}]


def _ask(server: Server, **fields: Any) -> Any:
    return server.openai.responses.create(**{"model": "writer", "input": "Hello", **fields})


def _post(server: Server, path: str = "/openai/v1/responses", **fields: Any) -> Any:
    return server.http.post(path, json={"model": "writer", "input": "Hello", **fields})


def _events(server: Server, **fields: Any) -> list[Any]:
    """The events of a stream, whose names and numbers are right."""
    response = _post(server, **fields, stream=True)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *blocks, nothing = response.text.split("\n\n")
    assert nothing == ""
    events = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert (name, event["sequence_number"]) == (f"event: {event['type']}", number)
        events.append(event)
    return events


def _shape(response: Any) -> Any:
    """A response without what is new each time."""
    output = [
        {key: value for key, value in item.items() if key not in ("id", "call_id")} for item in response["output"]
    ]
    return {**response, "output": output} | dict.fromkeys(("id", "created_at", "completed_at"))


def test_a_text_is_a_chat_with_the_defaults_of_openai_and_the_whole_context_to_fill(server: Server) -> None:
    _ask(server)
    assert server.writer.submitted == [({"messages": HELLO}, DEFAULTS)]


@pytest.mark.parametrize("path", ["/openai/v1/responses", "/v1/responses"])
def test_an_answer_is_a_response_object_with_the_fields_of_its_request(server: Server, path: str) -> None:
    server.writer.script = lambda _: [generated_result("Hi.", prompt=9, generated=2, cached_tokens=8)]
    answer = _post(server, path, metadata={"a": "b"}, user="me").json()
    assert answer.pop("id").startswith("resp_")
    assert answer.pop("created_at") > 1_700_000_000
    assert answer.pop("completed_at") > 1_700_000_000
    assert answer["output"][0].pop("id").startswith("msg_")
    assert answer == {
        "object": "response", "status": "completed", "background": False, "error": None, "incomplete_details": None,
        "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {"a": "b"},
        "model": "writer",
        "output": [
            {
                "type": "message", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "Hi."}],
            }
        ],
        "parallel_tool_calls": True, "previous_response_id": None, "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None}, "safety_identifier": None, "service_tier": "default",
        "store": False, "temperature": 1.0, "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled",
        "usage": {
            "input_tokens": 9, "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 0},
            "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 11,
        },
        "user": "me",
    }  # fmt: skip


def test_the_official_client_reads_an_answer(server: Server) -> None:
    server.writer.script = lambda _: [generated_result("Hi.", reasoning="A greeting.")]
    answer = _ask(server)
    assert (answer.output_text, answer.status) == ("Hi.", "completed")
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert (answer.output[0].content[0].text, answer.output[0].summary) == ("A greeting.", [])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_output_tokens": 5}, {"max_new_tokens": 5}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"truncation": "auto"}, {"truncation": True}),
        ({"truncation": "disabled"}, {"truncation": False}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": 0}),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, {"logprobs": 3}),
        ({"include": ["reasoning.encrypted_content"]}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        ({"text": {"format": None, "verbosity": "low"}}, {}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"const": None}}}},
            {"response_format": {
                "type": "json_schema", "json_schema": {"name": "n", "schema": {"const": None}, "strict": True},
            }},
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": False}}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": False}}},
        ),
        (
            {
                "store": False, "background": False, "previous_response_id": None, "conversation": None,
                "metadata": {}, "user": "me", "safety_identifier": "s", "prompt_cache_key": "k",
                "prompt_cache_retention": "24h", "service_tier": "auto", "max_tool_calls": 3, "tool_choice": "auto",
                "parallel_tool_calls": False, "reasoning": {"summary": "auto", "effort": None}, "tools": [],
                "instructions": None,
            },
            {},
        ),
    ],
)  # fmt: skip
def test_fields_reach_the_model_under_its_own_names(server: Server, given: Any, told: Any) -> None:
    assert _post(server, **given).status_code == 200
    left_out = {"fill_context"} if "max_new_tokens" in told else set()
    left_out |= {"temperature", "top_p", "top_k"} if told == {"do_sample": False} else set()
    expected = {name: value for name, value in DEFAULTS.items() if name not in left_out} | told
    assert server.writer.submitted == [({"messages": HELLO}, expected)]


def test_effort_reaches_the_model_only_if_it_is_sent(server: Server) -> None:
    _ask(server, reasoning={"effort": "low"})
    _ask(server, reasoning={"summary": "auto"})
    assert [instance.get("reasoning_effort") for instance in server.writer.instances] == ["low", None]
    assert "reasoning_effort" not in server.writer.instances[1]


def test_items_become_turns(server: Server) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Graz"}'}
    other = {**call, "call_id": "call_2", "arguments": ""}
    answer = {"type": "message", "role": "assistant", "status": "completed", "id": "msg_1", "phase": None}
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Why?"}]},
        {**answer, "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]},
        call,
        other,
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "wet"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "s"}]},
        {**answer, "content": [{"type": "refusal", "refusal": "No."}]},
        {"type": "reasoning", "id": "rs_3", "summary": [], "content": [{"type": "reasoning_text", "text": "Now"}]},
        call,
        {"type": "function_call_output", "call_id": "call_1", "output": "dry"},
        {"role": "user", "content": "c"},
    ]
    _ask(server, input=items, instructions="Be kind.")

    def called(name: str, arguments: str) -> Any:
        return {"id": name, "type": "function", "function": {"name": "weather", "arguments": arguments}}

    assert server.writer.instances[0]["messages"] == [
        {"role": "system", "content": "Be kind.\n\nBe brief."},
        {"role": "user", "content": "a\nb"},
        {
            "role": "assistant", "content": "I look.", "reasoning_content": "Why?",
            "tool_calls": [called("call_1", '{"city": "Graz"}'), called("call_2", "{}")],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "call_2", "content": "wet"},
        {"role": "assistant", "content": "No."},
        {"role": "assistant", "reasoning_content": "Now", "tool_calls": [called("call_1", '{"city": "Graz"}')]},
        {"role": "tool", "tool_call_id": "call_1", "content": "dry"},
        {"role": "user", "content": "c"},
    ]  # fmt: skip


def test_an_answer_can_be_sent_back_with_the_results_of_its_calls(server: Server) -> None:
    server.writer.script = lambda _: [generated_result("Let me see.", reasoning="Hm.", tool_calls=CALLS)]
    answer = _ask(server, tools=[WEATHER])
    calls = [item for item in answer.output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
    _ask(server, input=[*HELLO, *(item.model_dump() for item in answer.output), *results], tools=[WEATHER])
    _ask(server, input=[*HELLO, *answer.output, *results], tools=[WEATHER])
    turns = server.writer.instances[1]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool"]
    assert (turns[1]["content"], turns[1]["reasoning_content"]) == ("Let me see.", "Hm.")
    assert [call["function"] for call in turns[1]["tool_calls"]] == CALLS
    assert [turn["tool_call_id"] for turn in turns[2:]] == [call["id"] for call in turns[1]["tool_calls"]]
    assert server.writer.instances[2]["messages"] == turns


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}, "required"),
    ],
)
def test_tools_and_their_choice_reach_the_model(server: Server, choice: Any, told: Any) -> None:
    other = {"type": "function", "name": "other", "strict": False, "parameters": None}
    answer = _ask(server, tools=[other, WEATHER], tool_choice=choice, parallel_tool_calls=False)
    tools = [{"type": "function", "function": {"name": "other", "strict": False}}, AS_CHAT]
    allowed = isinstance(choice, dict) and choice["type"] == "allowed_tools"
    assert server.writer.instances == [
        {
            "messages": HELLO, "tools": tools[1:] if allowed else tools, "tool_choice": told,
            "parallel_tool_calls": False,
        }
    ]  # fmt: skip
    assert [tool.name for tool in answer.tools] == ["other", "weather"]
    assert [tool.strict for tool in answer.tools] == [False, True]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"store": True}, "store", "not stored"),
        ({"background": True}, "background", "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "not stored"),
        ({"conversation": "conv_1"}, "conversation", "not stored"),
        ({"prompt": {"id": "p"}}, "prompt", "templates"),
        ({"input": []}, "input", "message"),
        ({"input": 7}, "input", "string or a list"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "not stored"),
        ({"input": [*HELLO, {"type": "web_search_call", "id": "w"}]}, "input[1].type", "web_search_call"),
        ({"input": [{"type": {}, "role": "user", "content": "a"}]}, "input[0].type", "{}"),
        ({"input": [{"type": "", "role": "user", "content": "a"}]}, "input[0].type", "not supported"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role", "robot"),
        ({"input": [{"role": "user"}]}, "input[0].content", "required"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
            "input[0].content[0].type", "input_image",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text", "required"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"tools": [WEATHER, {"type": "file_search", "vector_store_ids": []}]}, "tools[1].type", "file_search"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "required"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "no tool x"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice.type", "web_search"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "grammar"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "required"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity", "loud"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater"),
        ({"include": ["everything"]}, "include[0]", "everything"),
        ({"top_logprobs": 21}, "top_logprobs", "20"),
        ({"truncation": "middle"}, "truncation", "middle"),
        ({"model": "embedder"}, "model", "feature-extraction"),
    ],
)  # fmt: skip
def test_what_is_wrong_or_not_offered_is_a_400_that_names_the_field(
    server: Server, fields: Any, param: str, said: str
) -> None:
    response = _post(server, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert said in error["message"]
    assert server.writer.submitted == []


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("tools[0].function.parameters.properties.x", "tools[1].parameters.properties.x"),
        ("parameters.response_format.json_schema.schema.x", "text.format.schema.x"),
        ("parameters.max_new_tokens", "max_output_tokens"),
        ("messages[3].content", "input"),
        ("reasoning_effort", "reasoning.effort"),
        (None, "input"),
    ],
)
def test_errors_of_the_model_name_the_fields_of_the_request(server: Server, field: str | None, param: str) -> None:
    server.writer.script = lambda _: InvalidRequest("is wrong", field=field)
    other = {"type": "function", "name": "other"}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    for stream in (False, True):
        response = _post(server, tools=[other, WEATHER], tool_choice=choice, stream=stream)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_errors_have_the_format_of_openai_on_both_paths(server: Server) -> None:
    for path in ("/openai/v1/responses", "/v1/responses"):
        assert server.http.get(path).status_code == 405
        assert set(server.http.get(path).json()["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(openai.NotFoundError) as raised:
        _ask(server, model="missing")
    assert raised.value.code == "model_not_found"
    server.writer.script = lambda _: Overloaded("full", retry_after=3)
    with pytest.raises(openai.RateLimitError):
        _ask(server)
    with serving(API_KEYS="secret") as guarded:
        for path in ("/openai/v1/responses", "/v1/responses"):
            response = _post(guarded, path)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


class City(BaseModel):
    name: str


def test_the_official_client_parses_answers_into_classes(server: Server) -> None:
    server.writer.script = lambda _: [generated_result('{"name": "Graz"}')]
    answer = server.openai.responses.parse(model="writer", input="Where?", text_format=City)
    assert answer.output_parsed == City(name="Graz")
    told = server.writer.parameters[0]["response_format"]
    assert (told["type"], told["json_schema"]["name"], told["json_schema"]["strict"]) == ("json_schema", "City", True)


def test_logprobs_name_every_token_and_its_rivals(server: Server) -> None:
    server.writer.script = lambda _: [generated_result("é", logprobs=[token("é", -0.5, ("e", -1.5))])]
    answer = _ask(server, include=["message.output_text.logprobs"], top_logprobs=1)
    (only,) = answer.output[0].content[0].logprobs
    assert (only.token, only.logprob, only.bytes, only.top_logprobs[0].token) == ("é", -0.5, [195, 169], "e")


@pytest.mark.parametrize(
    ("answer", "status", "types"),
    [
        (generated_result("Hi", "length"), "incomplete", ["message"]),
        (generated_result("", "stop"), "completed", ["message"]),
        (generated_result("", "length", reasoning="Hm"), "incomplete", ["reasoning"]),
        (generated_result("", "stop", reasoning="Hm"), "completed", ["reasoning", "message"]),
        (generated_result("", "stop", tool_calls=CALLS), "completed", ["function_call", "function_call"]),
        (generated_result("", "length", tool_calls=CALLS[:1]), "incomplete", ["function_call"]),
        (generated_result("So", "stop", reasoning="Hm", tool_calls=CALLS[:1]), "completed",
         ["reasoning", "message", "function_call"]),
    ],
)  # fmt: skip
def test_whole_and_streamed_answers_are_the_same_response(
    server: Server, answer: Any, status: str, types: list[str]
) -> None:
    server.writer.script = lambda _: [answer]
    whole = _post(server).json()
    assert (whole["status"], [item["type"] for item in whole["output"]]) == (status, types)
    assert whole["incomplete_details"] == ({"reason": "max_output_tokens"} if status == "incomplete" else None)
    cut = [{"generated_text": "", "reasoning": letter} for letter in answer.get("reasoning", "")]
    cut += [{"generated_text": letter} for letter in answer["generated_text"]]
    cut += [{"generated_text": "", "tool_calls": [call]} for call in answer.get("tool_calls", ())]
    rest = {key: value for key, value in answer.items() if key not in ("reasoning", "tool_calls")}
    for deltas in ([answer], [*cut, {**rest, "generated_text": ""}]):
        server.writer.script = lambda _, deltas=deltas: deltas  # type: ignore[misc]
        last = _events(server)[-1]
        assert last["type"] == f"response.{status}"
        assert _shape(last["response"]) == _shape(whole)


def test_a_stream_has_the_events_of_the_api_in_their_order(server: Server) -> None:
    server.writer.script = lambda _: [
        {"generated_text": "", "reasoning": "H"},
        {"generated_text": "", "reasoning": "m"},
        {"generated_text": "Hi", "logprobs": [token("Hi", -1.0)]},
        {"generated_text": "", "tool_calls": CALLS[:1]},
        generated_result("", prompt=9, generated=4),
    ]
    events = _events(server)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert (events[0]["response"]["status"], events[0]["response"]["output"]) == ("in_progress", [])
    by_item: dict[str, set[int]] = {}
    for event in events[2:-1]:
        by_item.setdefault(event.get("item_id") or event["item"]["id"], set()).add(event["output_index"])
    assert list(by_item.values()) == [{0}, {1}, {2}]
    assert [item["id"] for item in events[-1]["response"]["output"]] == list(by_item)
    assert events[11]["logprobs"] == events[12]["logprobs"]
    assert events[-1]["response"]["usage"]["total_tokens"] == 13


def test_the_official_client_follows_a_stream(server: Server) -> None:
    deltas = [{"generated_text": "", "reasoning": "Hm"}, {"generated_text": '{"name":'}, generated_result(' "Graz"}')]
    server.writer.script = lambda _: deltas
    with server.openai.responses.stream(model="writer", input="Where?", text_format=City) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        answer = stream.get_final_response()
    assert texts == ['{"name":', ' "Graz"}']
    assert (answer.output_parsed, answer.usage and answer.usage.output_tokens) == (City(name="Graz"), 2)

    server.writer.script = lambda _: [generated_result("", tool_calls=CALLS)]
    with server.openai.responses.stream(model="writer", input="Weather?", tools=[WEATHER]) as stream:
        stream.until_done()
        output = stream.get_final_response().output
    assert [(item.type, getattr(item, "arguments", "")) for item in output] == [
        ("function_call", call["arguments"]) for call in CALLS
    ]


def test_a_stream_that_fails_ends_with_its_error(server: Server) -> None:
    server.writer.script = lambda _: [{"generated_text": "Hi"}, InferenceFailed("the model failed")]
    *_, last = _events(server)
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "server_error", "message": "the model failed"}

    server.writer.script = lambda _: [{"generated_text": "Hi"}]
    assert _events(server)[-1]["type"] == "response.failed"
    server.writer.script = lambda _: [{"generated_text": "Hi", "logprobs": [token("Hi", float("nan"))]}]
    assert _events(server)[-1]["type"] == "response.failed"

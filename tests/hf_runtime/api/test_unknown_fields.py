"""Promises of fields that the server does not know or serve: ignored aloud, or refused by the client's name."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from hf_runtime.api.openai.chat import ChatRequest
from hf_runtime.api.openai.completions import CompletionRequest
from hf_runtime.api.openai.embeddings import EmbeddingRequest
from hf_runtime.api.openai.unserved import IGNORED, NOT_OFFERED
from tests.hf_runtime.api.openai_server import Server, serving

HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
BODIES: dict[str, Any] = {
    "chat/completions": {"model": "writer", "messages": HELLO},
    "completions": {"model": "writer", "prompt": "a"},
    "embeddings": {"model": "embedder", "input": "a"},
}
KINDS: dict[str, Any] = {
    "chat/completions": ChatRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingRequest,
}

UNKNOWN: list[tuple[Any, str, str]] = [
    ({"foo": 1}, "foo", "foo"),
    ({"foo": 1, "bar": {}}, "foo", "foo,bar"),
    ({"messages": [{"role": "user", "content": "Hello", "mood": "merry"}]}, "messages[0].mood", "messages.mood"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello", "x": 1}]}]},
     "messages[0].content[0].x", "messages.content.x"),
    ({"messages": [{"role": "user", "content": [None, {"type": "text", "text": "Hello", "x": 1}]}]},
     "messages[0].content[0].x", "messages.content.x"),
    ({"messages": [*HELLO * 2, {"role": "user", "content": "Hello", "a": 1, "b": 2}]}, "messages[2].a",
     "messages.a,messages.b"),
    ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [
        {"id": "1", "x": 1, "function": {"name": "f", "arguments": "", "y": 1}}]}]},
     "messages[1].tool_calls[0].function.y", "messages.tool_calls.function.y,messages.tool_calls.x"),
    ({"tools": [{**TOOL, "x": 1}]}, "tools[0].x", "tools.x"),
    ({"tools": [{"type": "function", "function": {**TOOL["function"], "x": 1}}]}, "tools[0].function.x",
     "tools.function.x"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}, "x": 1}}, "tool_choice.x",
     "tool_choice.x"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "stream_options.x"),
    ({"foo": 1, "tools": [{**TOOL, "x": 1}]}, "foo", "foo,tools.x"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "first", "names"), UNKNOWN)
def test_unknown_fields_are_ignored_with_a_line_and_a_header(
    server: Server, caplog: pytest.LogCaptureFixture, fields: Any, first: str, names: str
) -> None:
    caplog.set_level(logging.INFO)
    body = {**BODIES["chat/completions"], **fields}
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["x-ignored-fields"] == names
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("hf_runtime.api")]
    assert lines == [f"Unknown fields of a request are ignored: {names}"]
    known = {name: value for name, value in body.items() if name not in ("foo", "bar")}
    assert len(server.writer.instances[0]["messages"]) == len(known["messages"])
    assert '"x"' not in str(server.writer.submitted)


@pytest.mark.parametrize(("fields", "first", "names"), UNKNOWN)
def test_unknown_fields_are_refused_by_their_path_where_the_operator_wants_it(
    fields: Any, first: str, names: str
) -> None:
    with serving(OPENAI_UNKNOWN_FIELDS="refuse") as server:
        response = server.http.post("/v1/chat/completions", json={**BODIES["chat/completions"], **fields})
        assert (response.status_code, response.json()["error"]["param"]) == (400, first)
        assert "x-ignored-fields" not in response.headers
        assert server.writer.submitted == []


@pytest.mark.parametrize("path", BODIES)
def test_every_kind_of_request_ignores_and_refuses(path: str) -> None:
    with serving() as server:
        server.embedder.script = lambda _: {"embedding": [0.5], "prompt_tokens": 1}
        assert "x-ignored-fields" not in server.http.post(f"/v1/{path}", json=BODIES[path]).headers
        response = server.http.post(f"/v1/{path}", json={**BODIES[path], "foo": 1})
        assert (response.status_code, response.headers["x-ignored-fields"]) == (200, "foo")
    with serving(OPENAI_UNKNOWN_FIELDS="refuse") as server:
        response = server.http.post(f"/v1/{path}", json={**BODIES[path], "foo": 1})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "foo")
        assert response.json()["error"]["message"] == "Unrecognized request argument supplied: foo"


@pytest.mark.parametrize("name", ["a\nb: c", "ä", "x" * 10_000, "", "a b", "🙂"])
def test_names_in_the_header_and_the_log_are_safe_and_short(
    server: Server, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.INFO)
    response = server.http.post("/v1/completions", json={**BODIES["completions"], name: 1, "b" * 90: 1, "foo": 2})
    assert response.status_code == 200
    header = response.headers["x-ignored-fields"]
    assert header.endswith("foo")
    assert len(header) < 600
    assert header.isascii()
    assert not {" ", "\n", ":"} & set(header)
    many = {f"field{number}": 1 for number in range(500)}
    assert (
        len(server.http.post("/v1/completions", json={**BODIES["completions"], **many}).headers["x-ignored-fields"])
        < 600
    )
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_an_object_of_more_unknown_fields_than_any_client_has_is_refused(server: Server) -> None:
    message = {"role": "user", "content": "Hello", **{f"f{number}": 1 for number in range(1100)}}
    response = server.http.post("/v1/chat/completions", json={"model": "writer", "messages": [message]})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("messages[0].f")


def test_what_is_wrong_is_named_even_next_to_unknown_fields(server: Server) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}], "mood": "merry"}]
    response = server.http.post("/v1/chat/completions", json={"model": "writer", "messages": messages, "foo": 1})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[0].content[0].type"
    assert "image_url" in response.json()["error"]["message"]


@pytest.mark.parametrize("unknown", ["ignore", "refuse"])
@pytest.mark.parametrize("path", BODIES)
def test_a_known_field_that_is_not_served_is_refused_unless_it_is_neutral(path: str, unknown: str) -> None:
    kind = KINDS[path]
    with serving(OPENAI_UNKNOWN_FIELDS=unknown) as server:
        server.embedder.script = lambda _: {"embedding": [0.5], "prompt_tokens": 1}
        for name in NOT_OFFERED.keys() - kind.model_fields.keys():
            response = server.http.post(f"/v1/{path}", json={**BODIES[path], name: {"surely": "not neutral"}})
            assert (response.status_code, response.json()["error"]["param"]) == (400, name)
            assert response.json()["error"]["message"].startswith(f"{name}: not supported")
            for neutral in (None, *kind.neutral(name)):
                response = server.http.post(f"/v1/{path}", json={**BODIES[path], name: neutral})
                assert response.status_code == 200, (name, neutral, response.text)
                assert "x-ignored-fields" not in response.headers


@pytest.mark.parametrize("unknown", ["ignore", "refuse"])
def test_fields_that_change_nothing_are_accepted_silently(unknown: str) -> None:
    with serving(OPENAI_UNKNOWN_FIELDS=unknown) as server:
        for name in IGNORED - ChatRequest.model_fields.keys():
            response = server.http.post("/v1/chat/completions", json={**BODIES["chat/completions"], name: "x"})
            assert response.status_code == 200
            assert "x-ignored-fields" not in response.headers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spaces_between_special_tokens", 1), ("use_beam_search", 0), ("use_beam_search", ""), ("echo", True),
        ("add_special_tokens", True), ("bad_words", ["a"]), ("functions", {}),
    ],
)  # fmt: skip
def test_a_neutral_value_is_one_of_its_own_type(server: Server, field: str, value: Any) -> None:
    response = server.http.post("/v1/chat/completions", json={**BODIES["chat/completions"], field: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)


def test_kserves_protocols_stay_strict(server: Server) -> None:
    assert server.http.post("/v1/models/writer:predict", json={"instances": ["a"], "foo": 1}).status_code == 400
    assert server.http.post("/v2/models/writer/generate", json={"text_input": "a", "foo": 1}).status_code == 400


@pytest.mark.parametrize(
    ("options", "stream", "status"),
    [
        ({"include_usage": None}, True, 200), ({}, True, 200), ({"include_usage": None}, False, 200),
        ({"include_usage": False, "continuous_usage_stats": None}, False, 200), ({"include_usage": True}, False, 400),
        ({"continuous_usage_stats": True}, False, 400), ({"include_usage": "yes"}, True, 400),
    ],
)  # fmt: skip
def test_stream_options_may_be_null_and_neutral_without_a_stream(
    server: Server, options: Any, stream: bool, status: int
) -> None:
    body = {**BODIES["chat/completions"], "stream": stream, "stream_options": options}
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == status
    assert '"usage"' not in response.text or not stream


@pytest.mark.parametrize("includes_usage", [False, True])
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_continuous_usage_is_in_every_chunk(server: Server, path: str, includes_usage: bool) -> None:
    def counted(text: str, generated: int, **more: Any) -> Any:
        return {"generated_text": text, "prompt_tokens": 3, "generated_tokens": generated, **more}

    server.writer.script = lambda _: [counted("a", 1), counted("b", 4), counted("c", 5, finish_reason="stop")]
    options = {"include_usage": includes_usage, "continuous_usage_stats": True}
    events = server.events(path, **BODIES[path], stream_options=options)
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert set(counts) == {1, 4, 5}
    assert {event["usage"]["prompt_tokens"] for event in events} == {3}
    assert [event["usage"]["total_tokens"] for event in events] == [count + 3 for count in counts]
    assert (events[-1]["choices"] == []) == includes_usage
    assert server.writer.parameters[0]["continuous_usage"] is True


def test_continuous_usage_of_several_choices_is_their_sum(server: Server) -> None:
    server.writer.script = lambda _: [
        {"generated_text": "a", "prompt_tokens": 3, "generated_tokens": 2},
        {"generated_text": "b", "prompt_tokens": 3, "generated_tokens": 4, "finish_reason": "stop"},
    ]
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = server.events("completions", model="writer", prompt=["x", "y"], n=1, stream_options=options)
    assert events[-1]["usage"] == {"prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14}

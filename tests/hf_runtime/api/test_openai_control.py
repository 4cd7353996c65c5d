"""Promises: vLLM's fields reach the runner, errors name the client's field, and schemas are not strict by default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hf_runtime.contract.errors import InvalidRequest
from tests.hf_runtime.api.openai_server import Server, serving

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def _send(server: Server, route: str, **fields: Any) -> Any:
    prompt = {"prompt": "x"} if route == "completions" else {"messages": [{"role": "user", "content": "x"}]}
    return server.http.post(f"/openai/v1/{route}", json={"model": "writer", **prompt, **fields})


ROUTES = pytest.mark.parametrize("route", ["completions", "chat/completions"])


@ROUTES
@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({"min_p": 0.1}, {"min_p": 0.1}),
        ({"stop_token_ids": [2, 3]}, {"stop_token_ids": [2, 3]}),
        ({"include_stop_str_in_output": True}, {"include_stop_str_in_output": True}),
        ({"skip_special_tokens": False}, {"skip_special_tokens": False}),
        ({"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": -1}),
        ({"length_penalty": 1.0, "use_beam_search": False}, {"length_penalty": 1.0, "use_beam_search": False}),
        ({"n": 2, "best_of": 2, "spaces_between_special_tokens": True}, {}),
        ({"structured_outputs": {"json": SCHEMA}}, {"structured_outputs": {"json": SCHEMA}}),
        ({"structured_outputs": {"json": SCHEMA, "regex": None}}, {"structured_outputs": {"json": SCHEMA}}),
        ({"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}),
        ({"guided_regex": "a+", "guided_decoding_backend": "auto"}, {"structured_outputs": {"regex": "a+"}}),
        ({"guided_choice": ["a"]}, {"structured_outputs": {"choice": ["a"]}}),
        ({"guided_grammar": 'start: "a"'}, {"structured_outputs": {"grammar": 'start: "a"'}}),
        (
            {"guided_json": "{}", "guided_whitespace_pattern": " "},
            {"structured_outputs": {"json": "{}", "whitespace_pattern": " "}},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": False}}},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": True}}},
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": True}}},
        ),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            {"response_format": {"type": "json_object", "schema": SCHEMA, "strict": False}},
        ),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
    ],
)  # fmt: skip
def test_a_field_reaches_the_runner(server: Server, route: str, fields: Any, parameters: Any) -> None:
    assert _send(server, route, **fields).status_code == 200
    sent = server.writer.parameters[0]
    assert {name: sent.get(name) for name in parameters} == parameters
    assert fields.keys() & {"best_of", "spaces_between_special_tokens", "guided_json"} & sent.keys() == set()


@ROUTES
def test_the_runner_gets_nothing_that_was_not_sent(server: Server, route: str) -> None:
    assert _send(server, route).status_code == 200
    known = {
        "details",
        "do_sample",
        "temperature",
        "top_p",
        "top_k",
        "return_full_text",
        "max_new_tokens",
        "fill_context",
    }
    assert server.writer.parameters[0].keys() <= known


@ROUTES
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"min_p": 2}, "min_p"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids[0]"),
        ({"best_of": 3}, "best_of"),
        ({"spaces_between_special_tokens": False}, "spaces_between_special_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "guided_json": {}}, "guided_json"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "structured_outputs"),
        ({"guided_whitespace_pattern": "a"}, "guided_whitespace_pattern"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_a_400_that_names_it(server: Server, route: str, fields: Any, field: str) -> None:
    response = _send(server, route, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)


@ROUTES
@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"guided_json": SCHEMA}, "structured_outputs.json", "guided_json"),
        ({"guided_regex": "(a"}, "structured_outputs.regex", "guided_regex"),
        ({"guided_grammar": "x"}, "structured_outputs.grammar", "guided_grammar"),
        ({"guided_choice": ["x"]}, "parameters.structured_outputs", "guided_choice"),
        ({"guided_choice": ["x"]}, "parameters.structured_outputs.choice", "guided_choice"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex", "structured_outputs.regex"),
        ({"length_penalty": 2}, "parameters.length_penalty", "length_penalty"),
        ({"stop_token_ids": [9]}, "parameters.stop_token_ids[0]", "stop_token_ids[0]"),
    ],
)
def test_an_error_of_the_runner_names_the_clients_field(
    server: Server, route: str, fields: Any, error: str, field: str
) -> None:
    server.writer.script = lambda _: InvalidRequest("is wrong", field=error)
    response = _send(server, route, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)

"""Promise: streams report early errors by status, later ones in an object; leaving cancels."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, Overloaded
from hf_runtime.rpc.messages import ModelState
from tests.hf_runtime.api.openai_server import ScriptedClient, Server, app, generated_result, serving


def _stream(server: Server, instances: list[Any], events: bool = False, **parameters: Any) -> Any:
    headers = {"Accept": "text/event-stream"} if events else {}
    body = {"instances": instances, "parameters": {**parameters, "stream": True}}
    return server.http.post("/v1/models/writer:predict", json=body, headers=headers)


def _objects(response: Any) -> list[dict[str, Any]]:
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def test_each_delta_is_a_line_with_its_instance(server: Server) -> None:
    server.writer.script = lambda index: [{"generated_text": f"{index} is"}, generated_result(" written")]
    lines = _objects(_stream(server, ["a", "b"], max_new_tokens=3))
    counts = {"finish_reason": "stop", "prompt_tokens": 3, "generated_tokens": 2}
    for index in range(2):
        assert [line for line in lines if line["index"] == index] == [
            {"index": index, "generated_text": f"{index} is"},
            {"index": index, "generated_text": " written", **counts},
        ]
    # `stream` is the server's parameter and does not reach the model.
    assert server.writer.submitted == [("a", {"max_new_tokens": 3}), ("b", {"max_new_tokens": 3})]


def test_events_carry_the_same_objects_as_lines(server: Server) -> None:
    server.writer.script = lambda _: [{"generated_text": "a\n\nb"}, generated_result("")]
    response = _stream(server, ["a"], events=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, rest = response.text.split("\n\n")
    assert rest == ""
    assert [json.loads(event.removeprefix("data: ")) for event in events] == _objects(_stream(server, ["a"]))


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InvalidRequest("must be right"), 400, "instances[1]: must be right"),
        (InvalidRequest("must be 1", field="parameters.top_k"), 400, "parameters.top_k: must be 1"),
        (Overloaded("too much", retry_after=3), 429, "too much"),
    ],
)
def test_a_refused_instance_sets_the_status_and_cancels_the_others(
    server: Server, error: Any, status: int, message: str
) -> None:
    server.writer.script = lambda index: error if index == 1 else None
    response = _stream(server, ["a", "b"])
    assert (response.status_code, response.json()) == (status, {"error": message})
    assert server.writer.cancelled == [0]


def test_an_error_within_a_stream_is_a_last_object_and_the_other_instances_continue(server: Server) -> None:
    failing = [{"generated_text": "half"}, InferenceFailed("the log has the details")]
    server.writer.script = lambda index: failing if index == 0 else [generated_result("whole")]
    lines = _objects(_stream(server, ["a", "b"]))
    assert [line for line in lines if line["index"] == 0] == [
        {"index": 0, "generated_text": "half"},
        {"index": 0, "generated_text": "", "finish_reason": "error", "error": "the log has the details"},
    ]
    assert next(line for line in lines if line["index"] == 1)["generated_text"] == "whole"


def test_a_stalled_stream_ends_as_cancelled_and_its_item_is_cancelled() -> None:
    with serving(REQUEST_TIMEOUT=0.05) as server:
        server.writer.script = lambda index: None if index == 0 else [generated_result("whole")]
        lines = _objects(_stream(server, ["a", "b"]))
        (last,) = [line for line in lines if line["index"] == 0]
        assert last["finish_reason"] == "cancelled"
        assert "REQUEST_TIMEOUT" in last["error"]
        assert server.writer.cancelled == [0]


def test_a_model_that_does_not_stream_refuses_the_request_itself(server: Server) -> None:
    server.writer.script = lambda _: InvalidRequest("this model does not", field="parameters.stream")
    assert _stream(server, ["a"]).json() == {"error": "parameters.stream: this model does not"}


@pytest.mark.parametrize("path", ["/v1/models/writer:predict", "/openai/v1/completions"])
def test_a_client_that_leaves_a_stream_cancels_its_items(path: str) -> None:
    async def scenario() -> ScriptedClient:
        writer = ScriptedClient("writer", ModelState("ready"))
        writer.script = lambda _: None
        body: dict[str, Any] = {"instances": ["a", "b"], "parameters": {"stream": True}}
        if "openai" in path:
            body = {"model": "writer", "prompt": ["a", "b"], "stream": True}
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        await incoming.put({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                await incoming.put({"type": "http.disconnect"})

        scope = {
            "type": "http", "method": "POST", "path": path, "root_path": "", "headers": [], "query_string": b"",
        }  # fmt: skip
        await asyncio.wait_for(app([writer])(scope, incoming.get, send), 30)
        return writer

    assert asyncio.run(scenario()).cancelled == [0, 1]

"""Promise: OpenAI's API reports errors in its own shape and lists the models."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import orjson
import pytest

from hf_runtime.contract.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    RequestTooLarge,
)
from hf_runtime.rpc.messages import ModelState
from tests.hf_runtime.api.openai_server import ScriptedClient, Server, app, generated_result, serving

HELLO: Any = [{"role": "user", "content": "Hello"}]


def test_models_are_listed_and_described_one_by_one(server: Server) -> None:
    listed = server.openai.models.list().data
    assert [model.id for model in listed] == ["writer", "embedder", "classifier", "slow"]
    assert {model.object for model in listed} == {"model"}
    assert server.openai.models.retrieve("writer") == listed[0]
    assert server.openai.models.retrieve("writer").created > 1_700_000_000


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "param"),
    [
        ("GET", "/openai/v1/models/nope", 404, "model_not_found", "model"),
        ("GET", "/openai/v1/models/owner/nope", 404, "model_not_found", "model"),
        ("GET", "/openai/v1/models/slow", 503, None, None),
        ("POST", "/openai/v1/models", 405, None, None),
        ("GET", "/openai/v1/completions", 405, None, None),
        ("GET", "/openai/v1/nothing", 404, None, None),
        ("POST", "/openai/v1/images/generations", 404, None, None),
        ("GET", "/openai/nothing", 404, None, None),
    ],
)
def test_every_route_answers_errors_in_openais_shape(
    server: Server, method: str, path: str, status: int, code: str | None, param: str | None
) -> None:
    response = server.http.request(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert path in error["message"] or path.rpartition("/")[2] in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "kind", "code", "raised"),
    [
        (InvalidRequest("is wrong"), 400, "invalid_request_error", None, openai.BadRequestError),
        (RequestTooLarge("is large"), 413, "invalid_request_error", None, openai.APIStatusError),
        (Overloaded("wait", retry_after=3), 429, "rate_limit_error", "rate_limit_exceeded", openai.RateLimitError),
        (InferenceFailed("failed"), 500, "server_error", None, openai.InternalServerError),
        (ModelNotReady("gone", retry_after=5), 503, "server_error", None, openai.InternalServerError),
        (DeadlineExceeded("late"), 504, "server_error", None, openai.InternalServerError),
    ],
)
def test_an_error_before_the_answer_begins_has_its_own_status(
    server: Server, stream: bool, failure: Any, status: int, kind: str, code: str | None, raised: Any
) -> None:
    server.writer.script = lambda _: failure
    with pytest.raises(raised) as caught:
        server.openai.completions.create(model="writer", prompt="a", stream=stream)
    assert caught.value.status_code == status
    assert (caught.value.type, caught.value.code) == (kind, code)
    assert failure.message in str(caught.value)
    retry_after = str(failure.retry_after) if failure.retry_after else None
    assert caught.value.response.headers.get("retry-after") == retry_after


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "writer", "prompt": NaN}', b'{"model": "\xff"}'])
def test_a_body_that_is_no_json_object_is_a_400(server: Server, body: bytes) -> None:
    response = server.http.post("/openai/v1/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("Unrecognized request format")


@pytest.mark.parametrize("path", ["completions", "chat/completions", "embeddings"])
def test_unknown_loading_and_unsuitable_models_get_different_errors(server: Server, path: str) -> None:
    content: Any = {
        "completions": {"prompt": "a"},
        "chat/completions": {"messages": HELLO},
        "embeddings": {"input": "a"},
    }
    answers = {
        model: server.http.post(f"/openai/v1/{path}", json={"model": model, **content[path]})
        for model in ("nope", "slow", "classifier")
    }
    assert {model: response.status_code for model, response in answers.items()} == {
        "nope": 404, "slow": 503, "classifier": 400,
    }  # fmt: skip
    assert answers["nope"].json()["error"]["code"] == "model_not_found"
    assert "retry-after" in answers["slow"].headers
    error = answers["classifier"].json()["error"]
    assert error["param"] == "model"
    assert "text-classification" in error["message"]


def test_too_many_items_or_too_large_a_body_is_a_413_that_names_the_limit(server: Server) -> None:
    for fields, param in (
        ({"prompt": ["a"] * 7}, "prompt"),
        ({"prompt": ["a"] * 2, "n": 4}, "n"),
    ):
        response = server.http.post("/openai/v1/completions", json={"model": "writer", **fields})
        assert (response.status_code, response.json()["error"]["param"]) == (413, param)
        assert "MAX_INSTANCES" in response.json()["error"]["message"]
    assert server.http.post("/openai/v1/embeddings", json={"model": "embedder", "input": ["a"] * 7}).status_code == 413
    large = server.http.post("/openai/v1/completions", json={"model": "writer", "prompt": "a" * 20_000})
    assert large.status_code == 413
    assert "MAX_BODY_SIZE" in large.json()["error"]["message"]
    assert server.writer.submitted == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "field", "reason", "message", "param"),
    [
        ("completions", {"prompt": "a"}, "parameters.max_new_tokens", "5 is too many", "max_tokens: 5 is too many",
         "max_tokens"),
        ("completions", {"prompt": "a"}, "parameters.top_k", "is odd", "top_k: is odd", "top_k"),
        ("completions", {"prompt": "a"}, "parameters.logit_bias.7", "no", "logit_bias.7: no", "logit_bias.7"),
        ("completions", {"prompt": "a"}, None, "is long, parameters.max_new_tokens is 5; set parameters.truncation",
         "prompt: is long, max_tokens is 5; set truncation", "prompt"),
        ("completions", {"prompt": ["a"], "n": 2}, None, "is long", "prompt[0]: is long", "prompt[0]"),
        ("chat/completions", {}, "parameters.max_new_tokens", "no", "max_completion_tokens: no",
         "max_completion_tokens"),
        ("chat/completions", {"max_tokens": 5}, "parameters.max_new_tokens", "no", "max_tokens: no", "max_tokens"),
        ("chat/completions", {}, "parameters.min_new_tokens", "no", "min_tokens: no", "min_tokens"),
        ("chat/completions", {"logprobs": True, "top_logprobs": 2}, "parameters.logprobs", "no", "top_logprobs: no",
         "top_logprobs"),
        ("chat/completions", {}, "messages[0].role", "no", "messages[0].role: no", "messages[0].role"),
        ("chat/completions", {}, "tools", "no", "tools: no", "tools"),
        ("chat/completions", {}, None, "no template", "messages: no template", "messages"),
    ],
)  # fmt: skip
def test_a_models_refusal_names_the_clients_field(
    server: Server, stream: bool, path: str, fields: Any, field: str | None, reason: str, message: str, param: str
) -> None:
    server.writer.script = lambda _: InvalidRequest(reason, field=field)
    content: Any = {"messages": HELLO} if path.startswith("chat") else {}
    body = {"model": "writer", "stream": stream, **content, **fields}
    response = server.http.post(f"/openai/v1/{path}", json=body)
    assert response.status_code == 400
    assert (response.json()["error"]["message"], response.json()["error"]["param"]) == (message, param)


def test_an_answer_that_is_late_is_a_504_and_its_items_are_cancelled() -> None:
    with serving(REQUEST_TIMEOUT=0.05) as server:
        server.writer.script = lambda _: None
        response = server.http.post("/openai/v1/completions", json={"model": "writer", "prompt": "a", "n": 2})
        assert response.status_code == 504
        assert "REQUEST_TIMEOUT" in response.json()["error"]["message"]
        assert server.writer.cancelled == [0, 1]


def test_a_stream_without_further_deltas_ends_in_an_error(server: Server) -> None:
    with serving(REQUEST_TIMEOUT=0.05) as server:
        server.writer.script = lambda _: None
        (event,) = server.events("chat/completions", model="writer", messages=HELLO)
        assert event["error"]["type"] == "server_error"
        assert "REQUEST_TIMEOUT" in event["error"]["message"]
        assert server.writer.cancelled == [0]


def test_a_bug_is_a_500_without_internals(server: Server) -> None:
    server.writer.script = lambda _: [{"no": "text"}]
    response = server.http.post("/openai/v1/completions", json={"model": "writer", "prompt": "a"})
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "the server failed; its log has the details", "type": "server_error", "param": None, "code": None,
    }  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_items_are_cancelled_when_the_client_leaves(stream: bool) -> None:
    writer = ScriptedClient("writer", ModelState("ready"))
    writer.script = lambda index: [generated_result("a")] if index == 0 else None

    async def scenario() -> list[Any]:
        body = orjson.dumps({"model": "writer", "prompt": "a", "n": 3, "stream": stream})
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        await incoming.put({"type": "http.request", "body": body, "more_body": False})
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)
            if message.get("body"):
                # Read the first delta, then leave.
                await incoming.put({"type": "http.disconnect"})

        if not stream:
            await incoming.put({"type": "http.disconnect"})
        path = "/openai/v1/completions"
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        await asyncio.wait_for(app([writer])(scope, incoming.get, send), 30)
        return sent

    sent = asyncio.run(scenario())
    assert sent[0]["status"] == (200 if stream else 499)
    assert writer.cancelled == [1, 2]
    if stream:
        assert [b"[DONE]" in message.get("body", b"") for message in sent] == [False, False]

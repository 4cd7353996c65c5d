"""Promise: each request is recorded once, with its id and outcome."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from hf_runtime.api.app import create_app
from hf_runtime.api.inference import Models
from hf_runtime.contract.errors import InferenceFailed
from hf_runtime.observability.request_record import RequestRecord
from hf_runtime.observability.requests import RequestObserverMiddleware, get_request_record
from hf_runtime.rpc.messages import ModelState
from hf_runtime.settings import ServerSettings
from tests.hf_runtime.api.openai_server import ScriptedClient, generated_result


def _client(records: list[RequestRecord]) -> TestClient:
    async def answer(request: Request) -> Response:
        get_request_record(request.scope).model_name = "x"
        return PlainTextResponse("", 418)

    middleware = [Middleware(RequestObserverMiddleware, observers=[records.append])]
    return TestClient(Starlette(routes=[Route("/here", answer)], middleware=middleware))


def test_every_request_is_reported_once_with_its_record() -> None:
    records: list[RequestRecord] = []
    client = _client(records)
    client.get("/here")
    client.post("/nowhere")
    assert [(r.method, r.path, r.status, r.model_name) for r in records] == [
        ("GET", "/here", 418, "x"),
        ("POST", "/nowhere", 404, None),
    ]
    assert all(r.ended is not None and r.ended >= r.started for r in records)


def test_a_request_keeps_the_id_its_client_gave_it() -> None:
    records: list[RequestRecord] = []
    answer = _client(records).get("/here", headers={"X-Request-Id": "abc-1"})
    assert answer.headers["X-Request-Id"] == records[0].request_id == "abc-1"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é"])
def test_an_id_that_is_unsafe_in_a_log_is_replaced(given: str) -> None:
    records: list[RequestRecord] = []
    answer = _client(records).get("/here", headers=[(b"X-Request-Id", given.encode("latin-1"))])
    assert answer.headers["X-Request-Id"] == records[0].request_id
    assert len(records[0].request_id) == 32


def test_a_bug_is_recorded_with_the_status_of_its_answer() -> None:
    async def bug(_: Request) -> Response:
        raise KeyError

    records: list[RequestRecord] = []
    app = Starlette(
        routes=[Route("/", bug)], middleware=[Middleware(RequestObserverMiddleware, observers=[records.append])]
    )
    assert TestClient(app, raise_server_exceptions=False).get("/").status_code == 500
    assert [(record.status, record.error) for record in records] == [(500, "inference_failed")]


def test_an_error_within_a_stream_is_recorded_although_the_status_is_200() -> None:
    @asynccontextmanager
    async def nothing(_: Starlette) -> AsyncIterator[None]:
        yield

    records: list[RequestRecord] = []
    writer = ScriptedClient("writer", ModelState("ready"))
    writer.script = lambda index: [
        {"generated_text": "x"},
        InferenceFailed("broke") if index else generated_result("y"),
    ]
    app = create_app(Models({"writer": writer}), ServerSettings(), nothing, [records.append])
    body = {"instances": ["a", "b"], "parameters": {"stream": True}}
    with TestClient(app) as client:
        assert "broke" in client.post("/v1/models/writer:predict", json=body).text
    assert [(record.status, record.error) for record in records] == [(200, "inference_failed")]

"""Promise: bodies are read whole and within the limit, compressed or not."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from hf_runtime.api.http.body import BodyMemory, read_body
from hf_runtime.api.http.in_progress import InProgressMiddleware
from hf_runtime.contract.errors import HTTP_STATUS, BodyTooSlow, ServingError
from hf_runtime.draining import Drain
from hf_runtime.settings import ServerSettings


@pytest.fixture
def http() -> TestClient:
    async def answer(request: Request) -> Response:
        try:
            return Response(await read_body(request, ServerSettings(MAX_BODY_SIZE=1000)))
        except ServingError as error:
            return Response(error.message, HTTP_STATUS[type(error)])

    return TestClient(Starlette(routes=[Route("/", answer, methods=["POST"])]))


def _post(http: TestClient, body: Any, encoding: str) -> tuple[int, str]:
    response = http.post("/", content=body, headers={"Content-Encoding": encoding})
    return response.status_code, response.text


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(b"text", "identity"), (gzip.compress(b"text", mtime=0), "gzip"), (zlib.compress(b"text"), "deflate")],
)
def test_a_body_is_read_as_its_encoding_says(http: TestClient, body: bytes, encoding: str) -> None:
    assert _post(http, body, encoding) == (200, "text")


def test_a_body_in_chunks_is_joined(http: TestClient) -> None:
    body = gzip.compress(json.dumps(list(range(100))).encode())
    deltas = (body[start : start + 7] for start in range(0, len(body), 7))
    assert _post(http, deltas, "gzip") == (200, json.dumps(list(range(100))))


@pytest.mark.parametrize(
    ("body", "encoding", "status", "said"),
    [
        (b"x" * 1001, "identity", 413, "the body is larger than 1000 bytes (MAX_BODY_SIZE)"),
        (gzip.compress(bytes(2**28), mtime=0), "gzip", 413, "the body is larger than 1000 bytes (MAX_BODY_SIZE)"),
        (gzip.compress(bytes(1001), mtime=0), "gzip", 413, "the body is larger than 1000 bytes (MAX_BODY_SIZE)"),
        (gzip.compress(b"text", mtime=0)[:-9], "gzip", 400, "the body ends within its gzip data"),
        (b"text", "gzip", 400, "the body is not gzip: "),
        (b"", "gzip", 400, "the body ends within its gzip data"),
        (b"text", "br", 415, "Content-Encoding: br is not read; gzip and deflate are"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_refused(
    http: TestClient, body: bytes, encoding: str, status: int, said: str
) -> None:
    answered, message = _post(http, body, encoding)
    assert answered == status
    assert message.startswith(said)


class _Client:
    """Request whose body arrives in chunks that the test sends."""

    def __init__(self, app: Any, **headers: str) -> None:
        self._pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": lines}
        self.answered = asyncio.ensure_future(app(scope, self._pieces.get, self._send))

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def give(self, delta: bytes, *, more: bool = True) -> None:
        """Send a chunk and let the server read it."""
        self._pieces.put_nowait({"type": "http.request", "body": delta, "more_body": more})
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None


def _held(answers: asyncio.Event, **settings: Any) -> tuple[ASGIApp, BodyMemory]:
    """Build the memory of bodies, and an application that reads bodies and answers once the test permits it."""
    server = ServerSettings(**settings)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            body = await read_body(Request(scope, receive), server)
            await answers.wait()
            response = Response(body)
        except ServingError as error:
            headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
            response = Response(error.message, HTTP_STATUS[type(error)], headers)
        await response(scope, receive, send)

    bodies = BodyMemory(server.effective_max_bodies_size)
    return InProgressMiddleware(app, Drain(), bodies), bodies


def test_bodies_over_the_common_limit_are_refused_until_one_is_answered() -> None:
    async def scenario() -> None:
        answers = asyncio.Event()
        app, bodies = _held(answers, MAX_BODIES_SIZE=1000)
        whole, half = _Client(app), _Client(app)
        await whole.give(b"x" * 500, more=False)
        await half.give(b"x" * 400)
        packed = _Client(app, content_encoding="gzip")
        await packed.give(gzip.compress(bytes(900)))
        assert packed.status == 503
        assert (b"retry-after", b"1") in packed.sent[0]["headers"]
        assert b"1000 may be held together (MAX_BODIES_SIZE)" in packed.sent[1]["body"]
        await half.give(b"x" * 200)
        assert half.status == 503
        assert bodies.held == 500
        answers.set()
        await whole.answered
        assert (whole.status, bodies.held) == (200, 0)
        after = _Client(app)
        await after.give(b"x" * 900, more=False)
        assert after.status == 200

    asyncio.run(scenario())


def test_a_body_over_the_common_limit_alone_gets_no_time_to_retry() -> None:
    async def scenario() -> None:
        client = _Client(_held(asyncio.Event(), MAX_BODIES_SIZE=1000)[0])
        await client.give(b"x" * 1001)
        assert client.status == 413
        assert client.sent[1]["body"] == b"the body is larger than 1000 bytes (MAX_BODIES_SIZE)"

    asyncio.run(scenario())


def test_a_client_that_leaves_within_a_body_frees_its_memory() -> None:
    async def scenario() -> None:
        app, bodies = _held(asyncio.Event(), MAX_BODIES_SIZE=1000)
        client = _Client(app)
        await client.give(b"x" * 800)
        assert bodies.held == 800
        client.answered.cancel()
        await asyncio.gather(client.answered, return_exceptions=True)
        assert bodies.held == 0

    asyncio.run(scenario())


def test_a_body_that_is_not_received_in_time_is_refused() -> None:
    async def scenario() -> None:
        client = _Client(_held(asyncio.Event(), BODY_TIMEOUT=0.01)[0])
        await client.give(b"x")
        await client.answered
        assert client.status == HTTP_STATUS[BodyTooSlow] == 408
        assert client.sent[1]["body"] == b"the body was not received within 0.01 s (BODY_TIMEOUT)"

    asyncio.run(scenario())


def test_a_body_in_tiny_chunks_needs_no_more_memory_than_its_size() -> None:
    async def scenario() -> None:
        client = _Client(_held(asyncio.Event())[0])
        await client.give(b"ab")
        tracemalloc.start()
        for _ in range(20_000):
            client._pieces.put_nowait({"type": "http.request", "body": bytes([0, 1]), "more_body": True})
            await asyncio.sleep(0)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        client.answered.cancel()
        assert size < 200_000

    asyncio.run(scenario())

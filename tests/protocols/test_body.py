"""Promises of bodies: read whole and within the limit, compressed or not."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from errors import HTTP_STATUS, ServingError
from protocols.body import read_body
from settings import ServerSettings


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


def test_a_body_in_pieces_is_one(http: TestClient) -> None:
    body = gzip.compress(json.dumps(list(range(100))).encode())
    pieces = (body[start : start + 7] for start in range(0, len(body), 7))
    assert _post(http, pieces, "gzip") == (200, json.dumps(list(range(100))))


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
def test_what_cannot_be_read_is_refused(http: TestClient, body: bytes, encoding: str, status: int, said: str) -> None:
    answered, message = _post(http, body, encoding)
    assert answered == status
    assert message.startswith(said)

"""Promise: a client that reads no answer loses its connection and delays no stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import pytest
import uvicorn

from hf_runtime.bento import http_server
from hf_runtime.bento.http_server import LimitedHttpProtocol

#: Larger than any socket buffer.
LARGE = b"x" * 16 * 2**20
GET = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n"


class _Watched(LimitedHttpProtocol):
    """Protocol that reports the events of its connection to the test."""

    answered: ClassVar[asyncio.Event]
    checked: ClassVar[asyncio.Event]
    lost: ClassVar[asyncio.Event]

    def _check_read_progress(self, unread: int) -> None:
        super()._check_read_progress(unread)
        self.checked.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"%d" % len(LARGE))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": LARGE})
    _Watched.answered.set()


@asynccontextmanager
async def _serving() -> AsyncIterator[int]:
    _Watched.answered, _Watched.checked, _Watched.lost = asyncio.Event(), asyncio.Event(), asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(_answer, http=_Watched, lifespan="off", log_level="error"))
        running = asyncio.create_task(server._serve([listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def _connect_and_request(port: int) -> socket.socket:
    """Return a client that has sent a request and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, GET)
    return client


async def _read(client: socket.socket, least: int = 2 * len(LARGE)) -> int:
    """Read that many bytes or some more, or to the end; return how many came."""
    loop, size = asyncio.get_running_loop(), 0
    with suppress(ConnectionResetError):
        while size < least and (part := await loop.sock_recv(client, 2**20)):
            size += len(part)
    return size


def _run(steps: Callable[[socket.socket], Awaitable[None]]) -> None:
    """Run steps with a client that has sent a request."""

    async def scenario() -> None:
        async with _serving() as port:
            with await _connect_and_request(port) as client:
                await steps(client)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_READ_TIMEOUT", 0.2)

    async def steps(client: socket.socket) -> None:
        await _Watched.lost.wait()
        assert await _read(client) < len(LARGE)

    _run(steps)


def test_a_client_that_reads_slowly_gets_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_READ_TIMEOUT", 1.0)

    async def steps(client: socket.socket) -> None:
        await _Watched.answered.wait()
        size = 0
        for _ in range(2):
            _Watched.checked.clear()
            size += await _read(client, 3 * 2**20)
            await _Watched.checked.wait()
        size += await _read(client, len(LARGE) - size)
        assert size > len(LARGE)  # with its headers

    _run(steps)


def test_a_server_stops_although_an_answer_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_READ_TIMEOUT_AT_STOP", 0.2)

    async def scenario() -> None:
        async with _serving() as port:
            client = await _connect_and_request(port)
            await _Watched.answered.wait()
        client.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))

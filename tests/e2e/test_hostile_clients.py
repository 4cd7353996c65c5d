"""Promise: slow, leaving, incomplete or excessive clients do not disturb other clients."""

from __future__ import annotations

import json
import resource
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse, parse_headers
from typing import BinaryIO

import pytest
import requests

from tests.e2e.checkpoints import text_classification
from tests.e2e.server import Server, serving

pytestmark = pytest.mark.xdist_group("hostile")

BODY = json.dumps({"instances": ["a text"]}).encode()
HEAD = (
    b"POST /v1/models/model:predict HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = text_classification(tmp_path_factory.mktemp("hostile"))
    with serving(STORAGE_URI=str(folder), REQUEST_TIMEOUT="5", ACCESS_LOG="true") as server:
        yield server


def _connect(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.settimeout(60)
    return connection


def _served(server: Server) -> bool:
    answer = requests.post(f"{server.url}/v1/models/model:predict", data=BODY, timeout=10)
    return answer.status_code == 200 and len(answer.json()["predictions"]) == 1


def _status(connection: socket.socket) -> int:
    """Read the status of the next answer; return 0 if the connection was closed instead."""
    line = connection.makefile("rb").readline()
    return int(line.split()[1]) if line else 0


def test_a_thousand_idle_connections_cost_no_other_client_its_answer(server: Server) -> None:
    least = 1000 + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < least:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
    with ExitStack() as stack:
        idle = [stack.enter_context(_connect(server)) for _ in range(1000)]
        assert all(_served(server) for _ in range(10))
        idle[-1].sendall(HEAD + BODY)
        assert _status(idle[-1]) == 200


def test_bodies_that_are_never_finished_cost_no_other_client_its_answer(server: Server) -> None:
    with ExitStack() as stack:
        halves = [stack.enter_context(_connect(server)) for _ in range(100)]
        for half in halves:
            half.sendall(HEAD + BODY[:5])
        assert all(_served(server) for _ in range(10))
        halves[0].sendall(BODY[5:])
        assert _status(halves[0]) == 200
    assert _served(server)


def test_a_body_that_comes_byte_by_byte_is_answered(server: Server) -> None:
    with _connect(server) as slow:
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEAD + BODY:
            slow.sendall(bytes([byte]))
        assert _status(slow) == 200


def test_pipelined_requests_are_answered_in_their_order(server: Server) -> None:
    with _connect(server) as connection:
        wrong = HEAD.replace(b"model:predict", b"other:predict") + BODY
        connection.sendall((HEAD + BODY) + wrong + (HEAD + BODY))
        connection.shutdown(socket.SHUT_WR)
        answers = connection.makefile("rb").read()
    statuses = [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]
    # A client that stops sending may be treated as gone, but the answers that it gets are in order.
    assert statuses == [200, 404, 200][: len(statuses)]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: server\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: server\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 1000,
        b"POST /v1/models/model:predict HTTP/1.1\r\nHost: server\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/models/model:predict HTTP/1.1\r\nHost: server\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/models/model:predict HTTP/1.1\r\nHost: server\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ],
    ids=["long header", "long path", "TLS", "zeros", "negative length", "no chunk", "length beyond numbers"],
)
def test_bytes_that_form_no_request_are_refused_or_cut_off(server: Server, head: bytes) -> None:
    with _connect(server) as connection:
        try:
            connection.sendall(head)
            connection.shutdown(socket.SHUT_WR)
            status = _status(connection)
        except OSError:
            status = 0
        assert status == 0 or 400 <= status < 500, status
    assert _served(server)


def test_a_header_that_never_ends_is_cut_off_before_it_fills_the_memory(server: Server) -> None:
    with _connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: server\r\nX-Endless: ")
        with pytest.raises(OSError):  # noqa: PT011  # cut off in one way or another
            connection.sendall(b"x" * 100_000_000)
    (entry,) = server.entry_processes()
    assert entry.memory_info().rss < 400 * 2**20
    assert _served(server)


def test_clients_that_reset_their_connections_cost_no_other_client_its_answer(server: Server) -> None:
    for sent in (HEAD, HEAD + BODY[:5], HEAD + BODY) * 30:
        connection = _connect(server)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(sent)
        connection.close()
    assert _served(server)


_LARGE = 40_000_000
_POST = b"POST %b HTTP/1.1\r\nHost: server\r\n%b\r\n"


def _sent_whole(server: Server, path: bytes, headers: bytes, body: bytes) -> bytes:
    """Return the answer to a client that sends everything before it reads."""
    with _connect(server) as client:
        client.sendall(_POST % (path, headers))
        for start in range(0, len(body), 1_000_000):
            client.sendall(body[start : start + 1_000_000])
        return client.makefile("rb").read()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (b"/v1/models/model:predict", b"Content-Length: %d\r\n" % _LARGE, 413),
        (b"/v1/models/model:predict", b"Content-Length: %d\r\nConnection: close\r\n" % _LARGE, 413),
        (b"/v1/models/model:predict", b"Content-Length: %d\r\nContent-Encoding: br\r\n" % 15_000_000, 415),
        (b"/v1/models/other:predict", b"Content-Length: %d\r\n" % _LARGE, 404),
        (b"/nothing/there", b"Content-Length: %d\r\nConnection: close\r\n" % _LARGE, 404),
        (b"/openai/v1/completions", b"Content-Length: %d\r\nConnection: close\r\n" % _LARGE, 413),
    ],
)
def test_an_early_answer_reaches_a_client_that_still_sends(
    server: Server, path: bytes, headers: bytes, status: int
) -> None:
    size = 15_000_000 if status == 415 else _LARGE
    answer = _sent_whole(server, path, headers, bytes(size))
    assert int(answer.split()[1]) == status
    assert b"connection: close" in answer.split(b"\r\n\r\n")[0].lower()


def test_an_early_answer_reaches_a_client_that_sends_chunks(server: Server) -> None:
    chunk = b"%x\r\n" % 1_000_000 + bytes(1_000_000) + b"\r\n"
    headers = b"Transfer-Encoding: chunked\r\n"
    answer = _sent_whole(server, b"/v1/models/model:predict", headers, chunk * 40 + b"0\r\n\r\n")
    assert int(answer.split()[1]) == 413


def test_pythons_own_client_reads_the_refusal_of_its_40_mb(server: Server) -> None:
    request = urllib.request.Request(f"{server.url}/v1/models/model:predict", data=bytes(_LARGE), method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 413
    assert b"MAX_BODY_SIZE" in refused.value.read()


def test_a_head_that_is_too_long_is_a_400(server: Server) -> None:
    with _connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: server\r\nX-Long: " + b"x" * 300_000 + b"\r\n\r\n")
        assert _status(client) == 400


def test_a_connection_is_reused_after_an_early_answer_to_a_small_request(server: Server) -> None:
    with _connect(server) as client:
        client.sendall(HEAD.replace(b"model:predict", b"other:predict"))
        answer = HTTPResponse(client)
        answer.begin()
        assert (answer.status, answer.getheader("connection")) == (404, None)
        answer.read()
        client.sendall(BODY + HEAD + BODY)
        assert _status(client) == 200


def test_a_body_without_end_is_not_read_for_ever(server: Server) -> None:
    with _connect(server) as client:
        client.sendall(_POST % (b"/v1/models/model:predict", b"Content-Length: 99999999999\r\n"))
        with pytest.raises(OSError):  # noqa: PT011  # cut off in one way or another
            client.sendall(bytes(600_000_000))
    assert _served(server)


def test_a_path_adds_no_line_of_its_own_to_the_log(server: Server) -> None:
    with _connect(server) as client:
        client.sendall(b"GET /v1/a%0Aforged%1B[31m%E2%80%A8end HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")
        client.makefile("rb").read()
    server.wait_for(r"GET /v1/a\\nforged\\x1b\[31m\\u2028end 404")
    assert server.count("^forged") == 0


def test_the_server_keeps_no_connections_of_hostile_clients(server: Server) -> None:
    (entry,) = server.entry_processes()
    (runner,) = server.runner_processes()
    assert _served(server)
    assert len(entry.net_connections()) < 100
    assert not server.count("Traceback")
    assert runner.is_running()


def _read_answer(answers: BinaryIO) -> tuple[int, bytes]:
    """Return the status and the body of the next answer on a connection that stays open."""
    status = int(answers.readline().split()[1])
    return status, answers.read(int(parse_headers(answers)["Content-Length"]))


def _offering(body: bytes, *headers: bytes) -> bytes:
    """Return a prediction request that offers another protocol."""
    lines = (b"POST /v1/models/model:predict HTTP/1.1", b"Host: server", b"Content-Type: application/json", *headers)
    return b"\r\n".join((*lines, b"", body))


@pytest.mark.parametrize(
    "offer",
    [
        (b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
        (
            b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        (b"Upgrade: TLS/1.0", b"Connection: upgrade"),
    ],
    ids=["HTTP/2", "websocket", "TLS"],
)  # fmt: skip
@pytest.mark.parametrize("pause", [0, 1, 50, 10_000], ids=["at once", "byte by byte", "in parts", "head and body"])
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_an_offer_of_another_protocol_is_answered_in_this_one(
    server: Server, offer: tuple[bytes, ...], pause: int, chunked: bool
) -> None:
    """Check that the connection stays usable.

    Java's HTTP client and curl offer HTTP/2 with every request.
    """
    if chunked:
        request = _offering(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), *offer, b"Transfer-Encoding: chunked")
    else:
        request = _offering(BODY, *offer, b"Content-Length: %d" % len(BODY))
    end_of_head = request.index(b"\r\n\r\n") + 4
    step = {0: len(request), 10_000: end_of_head}.get(pause, pause)
    with _connect(server) as connection, connection.makefile("rb") as answers:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for start in range(0, len(request), step):
                connection.sendall(request[start : start + step])
            status, answer = _read_answer(answers)
            assert status == 200
            assert len(json.loads(answer)["predictions"]) == 1


def test_requests_behind_an_offer_of_another_protocol_are_answered_in_turn(server: Server) -> None:
    offer = (b"Upgrade: h2c", b"Connection: Upgrade")
    get = b"GET /v1/models/model HTTP/1.1\r\nHost: server\r\n%b\r\n\r\n" % b"\r\n".join(offer)
    post = _offering(BODY, *offer, b"Content-Length: %d" % len(BODY))
    with _connect(server) as connection, connection.makefile("rb") as answers:
        connection.sendall(get + post + get + HEAD + BODY)
        assert [_read_answer(answers)[0] for _ in range(4)] == [200] * 4

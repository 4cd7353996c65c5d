"""Promise: a GuideLLM benchmark ends with a report in which every request was answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.answers import MODEL, Server
from tests.clients.client import Client

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]


@pytest.fixture(scope="module")
def client(server: Server, tokenizer_folder: str) -> Iterator[Client]:
    """Start the client with the address of the server: it adds `/v1/…` and `/health`."""
    with Client("guidellm", {"url": server.root, "model": MODEL, "tokenizer": tokenizer_folder}) as running:
        yield running


@pytest.mark.parametrize("request_format", ["/v1/chat/completions", "/v1/completions"])
def test_benchmark(client: Client, request_format: str) -> None:
    report = client.call("benchmark", request_format=request_format)
    assert report["errors"] == []
    assert report["totals"] == {"successful": 6, "errored": 0, "incomplete": 0, "total": 6}
    # With `ignore_eos`, each answer has the length that was asked for.
    assert report["output_tokens"] == [8] * 6
    assert all(milliseconds > 0 for milliseconds in report["time_to_first_token_ms"])

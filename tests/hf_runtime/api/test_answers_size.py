"""Promise: a request whose answers need too much memory fails and its items are cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hf_runtime.contract.signature import Signature
from tests.hf_runtime.api.openai_server import Server, generated_result, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(MAX_ANSWERS_SIZE=1000) as server:
        server.writer.signature, server.writer.size = Signature(), 400
        yield server


def _predict(server: Server, texts: list[str]) -> Any:
    return server.http.post("/v1/models/writer:predict", json={"instances": texts})


def _infer(server: Server, texts: list[str]) -> Any:
    inputs = [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}]
    return server.http.post("/v2/models/writer/infer", json={"inputs": inputs})


def _complete(server: Server, texts: list[str]) -> Any:
    return server.http.post("/openai/v1/completions", json={"model": "writer", "prompt": texts})


@pytest.mark.parametrize("ask", [_predict, _infer, _complete])
def test_answers_that_are_too_large_together_end_their_request(server: Server, ask: Any) -> None:
    server.writer.script = lambda index: [generated_result("an answer")] if index != 5 else None
    assert ask(server, ["a", "b"]).status_code == 200
    refused = ask(server, ["a", "b", "c", "never answered"])
    assert refused.status_code == 400
    assert "more than 1000 bytes (MAX_ANSWERS_SIZE)" in refused.text
    assert server.writer.cancelled == [5]
    assert ask(server, ["a", "b"]).status_code == 200

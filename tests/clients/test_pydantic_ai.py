"""Promise: Pydantic AI works unchanged, with chat completions and with responses."""

from __future__ import annotations

import pytest

from tests.clients.answers import (
    EMBEDDING_MODEL,
    QUESTION,
    TEXTS,
    Server,
    assert_city,
    assert_streamed,
    assert_vectors,
)
from tests.clients.client import Client

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]


def test_chat(server: Server, client: Client) -> None:
    answer = client.call("chat", question=QUESTION)
    assert (answer["text"], answer["finish_reason"]) == (server.chat(), "stop")
    assert answer["input_tokens"] == server.count_prompt_tokens()
    assert answer["output_tokens"] > 0


def test_stream(server: Server, client: Client) -> None:
    assert_streamed(client.call("stream", question=QUESTION), server.chat())


@pytest.mark.parametrize("function", ["tools", "streamed_tools", "response_tools"])
def test_tools(client: Client, function: str) -> None:
    answer = client.call(function)
    assert len(answer["called"]) == 1
    assert answer["parts"] == ["user-prompt", "tool-call", "tool-return", "text"]
    assert answer["text"]


@pytest.mark.parametrize("output", ["native", "tool"])
def test_structured_output(client: Client, output: str) -> None:
    assert_city(client.call("structured", output=output))


def test_embeddings(server: Server, client: Client) -> None:
    assert_vectors(client.call("embeddings", model=EMBEDDING_MODEL, texts=TEXTS), server.embed())


def test_response(server: Server, client: Client) -> None:
    assert client.call("response", question=QUESTION)["text"] == server.chat()

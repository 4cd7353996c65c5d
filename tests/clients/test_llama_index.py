"""Promise: LlamaIndex's `OpenAILike` and `OpenAILikeEmbedding` work unchanged."""

from __future__ import annotations

import pytest

from tests.clients.answers import (
    EMBEDDING_MODEL,
    PROMPT,
    QUESTION,
    TEXTS,
    Server,
    assert_city,
    assert_streamed,
    assert_vectors,
    assert_weather_arguments,
)
from tests.clients.client import Client

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]


def test_chat(server: Server, client: Client) -> None:
    assert client.call("chat", question=QUESTION) == {"role": "assistant", "text": server.chat()}


def test_stream(server: Server, client: Client) -> None:
    answer = client.call("stream", question=QUESTION)
    assert_streamed(answer["deltas"], server.chat())
    assert answer["text"] == server.chat()


@pytest.mark.parametrize("function", ["tools", "streamed_tools"])
def test_tools(client: Client, function: str) -> None:
    answer = client.call(function)
    (call,) = answer["calls"]
    assert call["tool_name"] == "get_weather"
    assert call["tool_id"]
    assert_weather_arguments(call["tool_kwargs"])
    assert answer["results"] == [f"It is sunny in {call['tool_kwargs']['city']}."]
    assert answer["final"]


@pytest.mark.parametrize("function", ["structured", "structured_by_schema"])
def test_structured_output(client: Client, function: str) -> None:
    assert_city(client.call(function))


def test_completion(server: Server, client: Client) -> None:
    assert client.call("completion", prompt=PROMPT) == server.complete()


def test_embeddings(server: Server, client: Client) -> None:
    assert_vectors(client.call("embeddings", model=EMBEDDING_MODEL, texts=TEXTS), server.embed())

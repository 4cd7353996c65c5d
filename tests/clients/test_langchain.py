"""Promise: LangChain's `ChatOpenAI`, `OpenAI` and `OpenAIEmbeddings` work unchanged."""

from __future__ import annotations

import pytest

from tests.clients.answers import (
    EMBEDDING_MODEL,
    MODEL,
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
    answer = client.call("chat", question=QUESTION)
    assert (answer["type"], answer["content"]) == ("ai", server.chat())
    assert answer["response_metadata"]["finish_reason"] == "stop"
    assert answer["response_metadata"]["model_name"] == MODEL
    assert answer["usage_metadata"]["input_tokens"] == server.count_prompt_tokens()


def test_stream(server: Server, client: Client) -> None:
    answer = client.call("stream", question=QUESTION)
    assert_streamed(answer["deltas"], server.chat())
    assert answer["total"]["content"] == server.chat()
    assert answer["total"]["response_metadata"]["finish_reason"] == "stop"


@pytest.mark.parametrize("function", ["tools", "streamed_tools"])
def test_tools(client: Client, function: str) -> None:
    answer = client.call(function)
    assert answer["invalid"] == []
    (call,) = answer["calls"]
    assert call["name"] == "get_weather"
    assert call["id"]
    assert_weather_arguments(call["args"])
    assert answer["finish_reason"] == "tool_calls"
    assert answer["results"] == [f"It is sunny in {call['args']['city']}."]
    assert answer["final"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(client: Client, method: str) -> None:
    assert_city(client.call("structured", method=method))


def test_completion(server: Server, client: Client) -> None:
    assert client.call("completion", prompt=PROMPT) == server.complete()


@pytest.mark.parametrize("function", ["embeddings", "query_embedding"])
def test_embeddings(server: Server, client: Client, function: str) -> None:
    assert_vectors(client.call(function, model=EMBEDDING_MODEL, texts=TEXTS), server.embed())

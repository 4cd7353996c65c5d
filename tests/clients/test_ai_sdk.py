"""Promise: Vercel's AI SDK works unchanged, with each of its providers for OpenAI's API."""

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

_COMPATIBLE = ["openai-compatible", "openai-chat"]


@pytest.fixture(scope="module", params=[*_COMPATIBLE, "openai-responses"])
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_chat(server: Server, client: Client, provider: str) -> None:
    answer = client.call("chat", provider=provider, question=QUESTION)
    assert (answer["text"], answer["finishReason"]) == (server.chat(), "stop")
    assert answer["usage"]["inputTokens"] == server.count_prompt_tokens()


def test_stream(server: Server, client: Client, provider: str) -> None:
    answer = client.call("stream", provider=provider, question=QUESTION)
    assert_streamed(answer["deltas"], server.chat())
    assert (answer["text"], answer["finishReason"]) == (server.chat(), "stop")
    assert answer["usage"]["inputTokens"] == server.count_prompt_tokens()


@pytest.mark.parametrize("function", ["tools", "streamedTools"])
def test_tools(client: Client, provider: str, function: str) -> None:
    answer = client.call(function, provider=provider)
    first, last = answer["steps"]
    assert first["finishReason"] == "tool-calls"
    assert first["toolCalls"]
    for call, result in zip(first["toolCalls"], first["toolResults"], strict=True):
        assert call["toolName"] == "getWeather"
        assert_weather_arguments(call["input"])
        assert result["toolCallId"] == call["toolCallId"]
        assert result["output"] == f"It is sunny in {call['input']['city']}."
    assert last["toolCalls"] == []
    assert answer["text"]


def test_structured_output(client: Client, provider: str) -> None:
    assert_city(client.call("structured", provider=provider))


@pytest.mark.parametrize("provider", _COMPATIBLE)
def test_completion(client: Client, provider: str) -> None:
    assert client.call("completion", provider=provider, prompt=PROMPT)


@pytest.mark.parametrize("provider", _COMPATIBLE)
def test_embeddings(server: Server, client: Client, provider: str) -> None:
    vectors = client.call("embeddings", provider=provider, model=EMBEDDING_MODEL, texts=TEXTS)
    assert_vectors(vectors, server.embed())

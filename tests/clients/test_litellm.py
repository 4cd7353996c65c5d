"""Promise: LiteLLM works unchanged, as a client of an OpenAI-compatible server and of vLLM."""

from __future__ import annotations

import pytest

from tests.clients.answers import (
    EMBEDDING_MODEL,
    MODEL,
    QUESTION,
    TEXTS,
    Server,
    assert_city,
    assert_streamed,
    assert_vectors,
    assert_weather_call,
)
from tests.clients.client import Client

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]


@pytest.fixture(scope="module", params=["openai", "hosted_vllm"])
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_chat(server: Server, client: Client, provider: str) -> None:
    answer = client.call("chat", provider=provider, question=QUESTION)
    assert answer["model"].endswith(MODEL)
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert (choice["message"]["content"], choice["finish_reason"]) == (server.chat(), "stop")
    assert answer["usage"]["prompt_tokens"] == server.count_prompt_tokens()


def test_stream(server: Server, client: Client, provider: str) -> None:
    answer = client.call("stream", provider=provider, question=QUESTION)
    assert_streamed(answer["deltas"], server.chat())
    (choice,) = answer["built"]["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (server.chat(), "stop")
    assert answer["built"]["usage"]["prompt_tokens"] == server.count_prompt_tokens()


@pytest.mark.parametrize("function", ["tools", "streamed_tools"])
def test_tools(client: Client, provider: str, function: str) -> None:
    answer = client.call(function, provider=provider)
    (choice,) = answer["first"]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert_weather_call(choice["message"])
    (choice,) = answer["final"]["choices"]
    assert choice["message"]["content"]
    assert not choice["message"]["tool_calls"]


def test_structured_output(client: Client, provider: str) -> None:
    assert_city(client.call("structured", provider=provider))


def test_embeddings(server: Server, client: Client, provider: str) -> None:
    vectors = client.call("embeddings", provider=provider, model=EMBEDDING_MODEL, texts=TEXTS)
    assert_vectors(vectors, server.embed())


def test_an_unknown_model_is_not_found(client: Client, provider: str) -> None:
    assert "unknown" in client.call("unknown_model", provider=provider, model="unknown")

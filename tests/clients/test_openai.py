"""Promise: OpenAI's Python client works unchanged, with chat completions and with responses."""

from __future__ import annotations

from typing import Any

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
    assert_weather_call,
)
from tests.clients.client import Client

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]


@pytest.fixture(scope="module", params=["/openai/v1", "/v1"])
def url(server: Server, request: pytest.FixtureRequest) -> str:
    return f"{server.root}{request.param}"


def test_chat(server: Server, client: Client, url: str) -> None:
    answer = client.call("chat", url=url, question=QUESTION)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == MODEL
    assert answer["id"]
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == server.chat()
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["prompt_tokens"] == server.count_prompt_tokens()
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_stream(server: Server, client: Client, url: str) -> None:
    *chunks, last = client.call("stream", url=url, question=QUESTION)
    assert {chunk["object"] for chunk in [*chunks, last]} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[0]["delta"]["role"] == "assistant"
    assert_streamed([choice["delta"]["content"] for choice in choices], server.chat())
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0


def test_stream_with_the_helper(server: Server, client: Client) -> None:
    answer = client.call("stream_with_helper", question=QUESTION)
    assert_streamed(answer["deltas"], server.chat())
    (choice,) = answer["final"]["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (server.chat(), "stop")


@pytest.mark.parametrize("function", ["tools", "streamed_tools"])
def test_tools(client: Client, function: str) -> None:
    answer = client.call(function)
    (choice,) = answer["first"]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert_weather_call(choice["message"])
    (choice,) = answer["final"]["choices"]
    assert choice["message"]["content"]
    assert not choice["message"]["tool_calls"]


def test_structured_output(client: Client) -> None:
    assert_city(client.call("structured"))


def test_completion(server: Server, client: Client, url: str) -> None:
    answer = client.call("completion", url=url, prompt=PROMPT)
    assert answer["object"] == "text_completion"
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (server.complete(), "length")


def test_embeddings(server: Server, client: Client, url: str) -> None:
    assert_vectors(client.call("embeddings", url=url, model=EMBEDDING_MODEL, texts=TEXTS), server.embed())


def test_models(client: Client, url: str) -> None:
    answer = client.call("models", url=url)
    assert set(answer["listed"]) == {MODEL, EMBEDDING_MODEL}
    assert (answer["retrieved"]["id"], answer["retrieved"]["object"]) == (MODEL, "model")


def test_an_unknown_model_is_not_found(client: Client, url: str) -> None:
    answer = client.call("unknown_model", url=url, model="unknown")
    assert answer["code"] == "model_not_found"
    assert "unknown" in answer["message"]


def test_response(server: Server, client: Client) -> None:
    answer = client.call("response", question=QUESTION)
    assert (answer["object"], answer["status"], answer["model"]) == ("response", "completed", MODEL)
    assert answer["output_text"] == server.chat()
    (message,) = answer["output"]
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert [part["type"] for part in message["content"]] == ["output_text"]
    assert answer["usage"]["input_tokens"] == server.count_prompt_tokens()


def test_streamed_response(server: Server, client: Client) -> None:
    events: list[Any] = client.call("streamed_response", question=QUESTION)
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert_streamed(
        [event["delta"] for event in events if event["type"] == "response.output_text.delta"], server.chat()
    )
    (done,) = [event for event in events if event["type"] == "response.output_text.done"]
    assert done["text"] == server.chat()
    (message,) = events[-1]["response"]["output"]
    assert message["content"][0]["text"] == server.chat()


def test_tools_of_a_response(client: Client) -> None:
    answer = client.call("response_tools")
    (call,) = answer["first"]["output"]
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    assert call["call_id"]
    assert_weather_arguments(call["arguments"])
    assert answer["final"]


def test_structured_output_of_a_response(client: Client) -> None:
    assert_city(client.call("response_structured"))

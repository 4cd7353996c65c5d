"""Promise: Hugging Face's `InferenceClient` works unchanged."""

from __future__ import annotations

import pytest

from tests.clients.answers import (
    MODEL,
    QUESTION,
    Server,
    assert_city,
    assert_streamed,
    assert_weather_arguments,
)
from tests.clients.client import Client

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]


def test_chat(server: Server, client: Client) -> None:
    answer = client.call("chat", question=QUESTION)
    assert answer["model"] == MODEL
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert (choice["message"]["content"], choice["finish_reason"]) == (server.chat(), "stop")
    assert answer["usage"]["prompt_tokens"] == server.count_prompt_tokens()


def test_stream(server: Server, client: Client) -> None:
    *chunks, last = client.call("stream", question=QUESTION)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert_streamed([choice["delta"]["content"] for choice in choices], server.chat())
    assert choices[-1]["finish_reason"] == "stop"
    assert last["usage"]["prompt_tokens"] == server.count_prompt_tokens()


def test_tools(client: Client) -> None:
    answer = client.call("tools")
    (choice,) = answer["first"]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["id"]
    assert call["function"]["name"] == "get_weather"
    assert_weather_arguments(call["function"]["arguments"])
    (choice,) = answer["final"]["choices"]
    assert choice["message"]["content"]
    assert not choice["message"]["tool_calls"]


def test_structured_output(client: Client) -> None:
    # The client sends the schema as `{"type": "json_object", "value": schema}`.
    assert_city(client.call("structured"))

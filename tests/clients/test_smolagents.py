"""Promise: smolagents works unchanged: its model class, and an agent that calls tools."""

from __future__ import annotations

import pytest

from tests.clients.answers import (
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
    assert (answer["role"], answer["text"]) == ("assistant", server.chat())
    assert answer["input_tokens"] == server.count_prompt_tokens()
    assert answer["output_tokens"] > 0


def test_stream(server: Server, client: Client) -> None:
    answer = client.call("stream", question=QUESTION)
    assert_streamed(answer["deltas"], server.chat())
    assert answer["text"] == server.chat()
    assert answer["output_tokens"] > 0


def test_calls(client: Client) -> None:
    (call,) = client.call("calls")
    assert call["id"]
    assert call["name"] == "get_weather"
    assert_weather_arguments(call["arguments"])


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(client: Client, streamed: bool) -> None:
    answer = client.call("tools", streamed=streamed)
    assert [step["step_number"] for step in answer["steps"][:2]] == [1, 2]
    for step in answer["steps"][:2]:
        assert step["error"] is None
        assert step["tool_calls"]
        for call in step["tool_calls"]:
            assert call["function"]["name"] == "get_weather"
            assert_weather_arguments(call["function"]["arguments"])
        assert "It is sunny in" in step["observations"]
    assert isinstance(answer["output"], str)
    assert answer["output"]
    assert "Error in generating final LLM output" not in answer["output"]


def test_structured_output(client: Client) -> None:
    assert_city(client.call("structured"))

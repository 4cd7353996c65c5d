"""Promise: OpenAI's Agents SDK works unchanged, with chat completions and with responses."""

from __future__ import annotations

import pytest

from tests.clients.answers import QUESTION, Server, assert_city, assert_streamed, assert_weather_arguments
from tests.clients.client import Client

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]


@pytest.fixture(scope="module", params=["chat_completions", "responses"])
def api(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_chat(server: Server, client: Client, api: str) -> None:
    answer = client.call("chat", api=api, question=QUESTION)
    assert answer["text"] == server.chat()
    assert answer["input_tokens"] == server.count_prompt_tokens()
    assert answer["output_tokens"] > 0


def test_stream(server: Server, client: Client, api: str) -> None:
    answer = client.call("stream", api=api, question=QUESTION)
    assert_streamed(answer["deltas"], server.chat())
    assert answer["text"] == server.chat()


@pytest.mark.parametrize("function", ["tools", "streamed_tools"])
def test_tools(client: Client, api: str, function: str) -> None:
    answer = client.call(function, api=api)
    call, result, message = answer["items"]
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    assert_weather_arguments(call["arguments"])
    assert (result["type"], result["call_id"]) == ("function_call_output", call["call_id"])
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert answer["text"]


def test_structured_output(client: Client, api: str) -> None:
    assert_city(client.call("structured", api=api))

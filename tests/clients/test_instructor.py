"""Promise: Instructor works unchanged, with tools and with JSON schemas."""

from __future__ import annotations

import pytest

from tests.clients.answers import QUESTION, Server, assert_city, assert_streamed
from tests.clients.client import Client

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]

#: Modes that constrain the answer. With `JSON`, the schema is in the prompt only, and a small model misses it.
_MODES = ["TOOLS", "JSON_SCHEMA"]


def test_chat(server: Server, client: Client) -> None:
    (choice,) = client.call("chat", question=QUESTION)["choices"]
    assert choice["message"]["role"] == "assistant"
    assert (choice["message"]["content"], choice["finish_reason"]) == (server.chat(), "stop")


def test_stream(server: Server, client: Client) -> None:
    choices = [choice for chunk in client.call("stream", question=QUESTION) for choice in chunk["choices"]]
    assert_streamed([choice["delta"]["content"] for choice in choices], server.chat())
    assert choices[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("mode", _MODES)
def test_structured_output(client: Client, mode: str) -> None:
    answer = client.call("structured", mode=mode)
    assert_city(answer["city"])
    (choice,) = answer["completion"]["choices"]
    if mode.startswith("TOOLS"):
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "City"
        assert not choice["message"]["content"]
    else:
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("mode", _MODES)
def test_streamed_structured_output_grows_to_the_whole(client: Client, mode: str) -> None:
    cities = client.call("partial", mode=mode)
    assert_city(cities[-1])
    assert cities[-1] == client.call("structured", mode=mode)["city"]

"""Promise: Anthropic's Python client works unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.answers import MODEL, QUESTION, Server, assert_streamed, assert_weather_arguments
from tests.clients.client import Client

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    """Start the client with the address of the server: it adds `/v1/messages`."""
    with Client("anthropic", {"url": server.root, "model": MODEL}) as running:
        yield running


def _count_input_tokens(message: Any) -> int:
    """Return the number of tokens of the prompt; Anthropic's API counts those of its cache apart."""
    usage = message["usage"]
    fields = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(usage[field] or 0 for field in fields)


def test_chat(server: Server, client: Client) -> None:
    answer = client.call("chat", question=QUESTION)
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", MODEL)
    assert answer["id"]
    (block,) = answer["content"]
    assert (block["type"], block["text"]) == ("text", server.chat())
    assert answer["stop_reason"] == "end_turn"
    assert _count_input_tokens(answer) == server.count_prompt_tokens()
    assert answer["usage"]["output_tokens"] > 0


def test_chat_with_a_system_prompt(server: Server, client: Client) -> None:
    answer = client.call("chat_with_system", question=QUESTION, system="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    expected = server.post("chat/completions", {"messages": messages, "max_tokens": 24})
    assert answer["content"][0]["text"] == expected["choices"][0]["message"]["content"]


def test_stream(server: Server, client: Client) -> None:
    answer = client.call("stream", question=QUESTION)
    assert_streamed(answer["deltas"], server.chat())
    (block,) = answer["final"]["content"]
    assert block["text"] == server.chat()
    assert answer["final"]["stop_reason"] == "end_turn"


def test_events_of_a_stream(server: Server, client: Client) -> None:
    events = client.call("events", question=QUESTION)
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert {delta["type"] for delta in deltas} == {"text_delta"}
    assert_streamed([delta["text"] for delta in deltas], server.chat())


@pytest.mark.parametrize("function", ["tools", "streamed_tools"])
def test_tools(client: Client, function: str) -> None:
    answer = client.call(function)
    (block,) = answer["first"]["content"]
    assert (block["type"], block["name"]) == ("tool_use", "get_weather")
    assert block["id"]
    assert_weather_arguments(block["input"])
    assert answer["first"]["stop_reason"] == "tool_use"
    assert [block["type"] for block in answer["final"]["content"]] == ["text"]
    assert answer["final"]["content"][0]["text"]


def test_the_tool_runner_goes_on_with_the_whole_conversation(client: Client) -> None:
    """The runner asks the server to keep the conversation, and sends all of it again once that is refused."""
    first, second = client.call("tool_runner")
    for message in (first, second):
        assert message["stop_reason"] == "tool_use"
        (block,) = message["content"]
        assert (block["type"], block["name"]) == ("tool_use", "get_weather")
        assert_weather_arguments(block["input"])
    assert _count_input_tokens(second) > _count_input_tokens(first)


def test_structured_output(client: Client) -> None:
    city = client.call("structured")
    assert set(city) == {"name", "capital", "visits", "sight"}
    assert city["name"] in {"Paris", "Rome"}
    assert isinstance(city["capital"], bool)
    assert city["visits"] in range(3)
    assert city["sight"]["name"] in {"Louvre", "Colosseum"}


def test_tokens_are_counted(server: Server, client: Client) -> None:
    assert client.call("count_tokens", question=QUESTION) == server.count_prompt_tokens()


def test_an_unknown_model_is_not_found(client: Client) -> None:
    answer = client.call("unknown_model", model="unknown")
    assert answer["type"] == "error"
    assert answer["error"]["type"] == "not_found_error"
    assert "unknown" in answer["error"]["message"]

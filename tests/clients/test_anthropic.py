"""Promise: Anthropic's Python client works unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.answers import MODEL, QUESTION, Server, assert_city, assert_streamed, assert_weather_arguments
from tests.clients.client import Client

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    """Start the client with the address of the server: it adds `/v1/messages`."""
    with Client("anthropic", {"url": server.root, "model": MODEL}) as running:
        yield running


def test_chat(server: Server, client: Client) -> None:
    answer = client.call("chat", question=QUESTION)
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", MODEL)
    assert answer["id"]
    (block,) = answer["content"]
    assert (block["type"], block["text"]) == ("text", server.chat())
    assert answer["stop_reason"] == "end_turn"
    usage = answer["usage"]
    read = usage["input_tokens"] + (usage["cache_read_input_tokens"] or 0) + (usage["cache_creation_input_tokens"] or 0)
    assert read == server.count_prompt_tokens()
    assert usage["output_tokens"] > 0


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


def test_the_tool_runner_is_answered(client: Client) -> None:
    messages = client.call("tool_runner")
    assert 1 <= len(messages) <= 2
    assert {message["role"] for message in messages} == {"assistant"}


def test_structured_output(client: Client) -> None:
    assert_city(client.call("structured"))


def test_tokens_are_counted(server: Server, client: Client) -> None:
    assert client.call("count_tokens", question=QUESTION) == server.count_prompt_tokens()


def test_an_unknown_model_is_not_found(client: Client) -> None:
    answer = client.call("unknown_model", model="unknown")
    assert answer["type"] == "error"
    assert answer["error"]["type"] == "not_found_error"
    assert "unknown" in answer["error"]["message"]

"""Promise: reasoning is under both names that clients read, and a chat's own fields reach the runner."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError

from tests.hf_runtime.api.openai_server import Server, generated_result

HELLO: Any = [{"role": "user", "content": "Hello"}]
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
CALL = {"name": "clock", "arguments": "{}"}


def _ask(server: Server, **fields: Any) -> Any:
    return server.openai.chat.completions.create(**{"model": "writer", "messages": HELLO, **fields})


def _stream(server: Server, **fields: Any) -> list[dict[str, Any]]:
    events = _ask(server, stream=True, **fields)
    return [choice.to_dict() for event in events for choice in event.choices]


def test_reasoning_is_next_to_the_content(server: Server) -> None:
    server.writer.script = lambda _: [generated_result("Hi.", reasoning="I greet.")]
    message = _ask(server).choices[0].message.to_dict()
    assert message == {
        "role": "assistant",
        "content": "Hi.",
        "reasoning_content": "I greet.",
        "reasoning": "I greet.",
        "refusal": None,
    }
    message = _ask(server, extra_body={"include_reasoning": False}).choices[0].message.to_dict()
    assert message == {"role": "assistant", "content": "Hi.", "refusal": None}


def test_reasoning_is_streamed_before_the_content(server: Server) -> None:
    deltas = [{"generated_text": "", "reasoning": "I "}, {"generated_text": "Hi", "reasoning": "greet."}]
    server.writer.script = lambda _: [*deltas, generated_result(".")]
    told = [choice["delta"] for choice in _stream(server)]
    assert [delta.get("reasoning_content") for delta in told if "reasoning" in delta] == ["I ", "greet."]
    assert all(delta["reasoning"] == delta["reasoning_content"] for delta in told if "reasoning" in delta)
    assert "".join(delta.get("content", "") for delta in told) == "Hi."
    hidden = [choice["delta"] for choice in _stream(server, extra_body={"include_reasoning": False})]
    assert not any("reasoning" in delta or "reasoning_content" in delta for delta in hidden)
    assert "".join(delta.get("content", "") for delta in hidden) == "Hi."


def test_an_answer_that_is_cut_ends_with_length_even_after_a_call(server: Server) -> None:
    for reason, shown in (("stop", "tool_calls"), ("length", "length")):
        answer = [generated_result("", reason, tool_calls=[CALL])]
        server.writer.script = lambda _, answer=answer: answer  # type: ignore[misc]
        assert _ask(server, tools=[CLOCK]).choices[0].finish_reason == shown
        assert _stream(server, tools=[CLOCK])[-1]["finish_reason"] == shown


def test_fields_of_a_chat_reach_the_runner(server: Server) -> None:
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]},
    }
    own = {
        "chat_template_kwargs": {"enable_thinking": False}, "add_generation_prompt": True,
        "continue_final_message": False,
    }  # fmt: skip
    _ask(server, reasoning_effort="high", tools=[CLOCK], tool_choice=allowed, extra_body=own)
    instance, _ = server.writer.submitted[-1]
    expected = {"messages": HELLO, "tools": [CLOCK], "tool_choice": allowed, "reasoning_effort": "high", **own}
    assert instance == expected


def test_an_allowed_tool_that_is_not_there_is_a_400(server: Server) -> None:
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "news"}}]},
    }
    with pytest.raises(BadRequestError, match="there is no tool news"):
        _ask(server, tools=[CLOCK], tool_choice=allowed)


def test_reasoning_of_an_earlier_answer_is_accepted_under_both_names(server: Server) -> None:
    said = {"role": "assistant", "content": "Hi.", "reasoning": "I greet.", "reasoning_content": "I greet."}
    _ask(server, messages=[*HELLO, said, *HELLO])
    instance, _ = server.writer.submitted[-1]
    assert instance["messages"][1] == {"role": "assistant", "content": "Hi.", "reasoning_content": "I greet."}

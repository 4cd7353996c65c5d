"""Promise: completions and chats show log probabilities of the prompt in OpenAI's and vLLM's shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hf_runtime.api.openai_server import Server, generated_result, serving, token


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def _prompt_token(text: str, logprob: float | None, rank: int | None, *top: tuple[str, float], **more: Any) -> Any:
    entry = token(text, 0.0, *top, **more)
    return {**entry, "logprob": logprob, "rank": rank, "special": False}


PROMPT = [
    _prompt_token("The", None, None),
    _prompt_token(" sky", -2.5, 2, (" end", -1.0), (" sky", -2.5)),
    _prompt_token(" is", -0.5, 1, (" is", -0.5), (" was", -1.5)),
]
NEXT = token(" blue", -0.25, (" blue", -0.25))


def test_echo_with_logprobs_has_those_of_the_prompt_with_null_first(server: Server) -> None:
    server.writer.script = lambda _: [
        generated_result("The sky is blue", "length", 3, 1, prompt_logprobs=PROMPT, logprobs=[NEXT])
    ]
    answer = server.openai.completions.create(
        model="writer", prompt="The sky is", echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    assert server.writer.parameters[0] | {"logprobs": 1, "prompt_logprobs": 1} == server.writer.parameters[0]
    logprobs: Any = answer.choices[0].logprobs
    assert answer.choices[0].text == "The sky is blue"
    assert logprobs.tokens == ["The", " sky", " is", " blue"]
    assert logprobs.token_logprobs == [None, -2.5, -0.5, -0.25]
    assert logprobs.top_logprobs == [None, {" end": -1.0, " sky": -2.5}, {" is": -0.5}, {" blue": -0.25}]
    assert logprobs.text_offset == [0, 3, 7, 10]


def test_nothing_new_can_be_asked_for_with_echo(server: Server) -> None:
    server.writer.script = lambda _: [generated_result("The sky is", "length", 3, 0, prompt_logprobs=PROMPT)]
    answer = server.openai.completions.create(model="writer", prompt="The sky is", echo=True, logprobs=0, max_tokens=0)
    assert server.writer.parameters[0]["max_new_tokens"] == 0
    assert "logprobs" not in server.writer.parameters[0]
    logprobs: Any = answer.choices[0].logprobs
    assert logprobs.token_logprobs == [None, -2.5, -0.5]
    assert logprobs.top_logprobs == [None, {" sky": -2.5}, {" is": -0.5}]
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (0, "length")  # type: ignore[union-attr]


def test_a_stream_shows_them_in_its_first_event(server: Server) -> None:
    server.writer.script = lambda _: [
        {"generated_text": "The sky is blue", "logprobs": [NEXT], "prompt_logprobs": PROMPT},
        generated_result(" now", "stop", 3, 2, logprobs=[token(" now", -1.0)]),
    ]
    events = server.events("completions", model="writer", prompt="The sky is", echo=True, logprobs=2, max_tokens=5)
    first, second = (event["choices"][0]["logprobs"] for event in events)
    assert first["token_logprobs"] == [None, -2.5, -0.5, -0.25]
    assert first["text_offset"] == [0, 3, 7, 10]
    assert second["tokens"] == [" now"]
    assert second["text_offset"] == [15]


def test_prompt_logprobs_have_the_shape_of_vllm(server: Server) -> None:
    server.writer.script = lambda _: [
        generated_result("", "length", 3, 1, prompt_logprobs=[{**entry, "id": i} for i, entry in enumerate(PROMPT)])
    ]
    body = {"model": "writer", "prompt": "The sky is", "max_tokens": 1, "prompt_logprobs": 1}
    choice = server.http.post("/openai/v1/completions", json=body).json()["choices"][0]
    assert choice["logprobs"] is None
    assert choice["prompt_logprobs"] == [
        None,
        {
            "1": {"logprob": -2.5, "rank": 2, "decoded_token": " sky"},
            "7": {"logprob": -1.0, "rank": 1, "decoded_token": " end"},
        },
        {"2": {"logprob": -0.5, "rank": 1, "decoded_token": " is"},
         "7": {"logprob": -0.5, "rank": 1, "decoded_token": " is"}},
    ]  # fmt: skip
    chat = {"model": "writer", "messages": [{"role": "user", "content": "x"}], "prompt_logprobs": 0}
    answer = server.http.post("/openai/v1/chat/completions", json=chat).json()
    assert answer["prompt_logprobs"] == [
        None,
        {"1": {"logprob": -2.5, "rank": 2, "decoded_token": " sky"}},
        {"2": {"logprob": -0.5, "rank": 1, "decoded_token": " is"}},
    ]


def test_prompt_logprobs_of_a_stream_are_refused_by_name(server: Server) -> None:
    body = {"model": "writer", "prompt": "x", "prompt_logprobs": 1, "stream": True}
    response = server.http.post("/openai/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt_logprobs")


def test_offsets_skip_what_the_tokenizer_added(server: Server) -> None:
    begin = _prompt_token("<s>", None, None) | {"special": True}
    words = [begin, _prompt_token(" The", -1.0, 1), _prompt_token(" sky", -1.0, 1)]
    server.writer.script = lambda _: [generated_result("The sky", "length", 3, 0, prompt_logprobs=words)]
    body = {"model": "writer", "prompt": "The sky", "echo": True, "logprobs": 1, "max_tokens": 0}
    logprobs = server.http.post("/openai/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == [0, 0, 3]

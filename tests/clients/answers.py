"""Answers of the server to plain requests, and the answers that every client must return."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import requests

#: Names of the models in configs/quickstart.yaml.
MODEL, EMBEDDING_MODEL = "smollm2-135m-instruct", "all-minilm-l6-v2"
QUESTION = "What is the capital of France?"
PROMPT = "The capital of France is"
TEXTS = ["A cat sits on the mat.", "Two dogs run in the park.", "Hello"]

#: Schema of the city that the scripts ask for.
_NAMES, _SIGHTS = {"Paris", "Rome"}, {"Louvre", "Colosseum"}


class Server:
    """Addresses of the server, and its answers to plain requests.

    Attributes:
        root: address of the server.
        url: address of OpenAI's routes.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.url = f"{root}/openai/v1"

    def post(self, route: str, body: dict[str, Any]) -> Any:
        """Return the answer to a request without any client.

        Raises:
            HTTPError: it was refused.
        """
        answer = requests.post(f"{self.url}/{route}", json={"model": MODEL, "temperature": 0, **body}, timeout=120)
        answer.raise_for_status()
        return answer.json()

    def chat(self, question: str = QUESTION, max_tokens: int = 24, **fields: Any) -> str:
        """Return the text of a chat with one question."""
        messages = [{"role": "user", "content": question}]
        answer = self.post("chat/completions", {"messages": messages, "max_tokens": max_tokens, **fields})
        text: str = answer["choices"][0]["message"]["content"]
        return text

    def complete(self, prompt: str = PROMPT, max_tokens: int = 12) -> str:
        """Return the text that continues the prompt."""
        text: str = self.post("completions", {"prompt": prompt, "max_tokens": max_tokens})["choices"][0]["text"]
        return text

    def count_prompt_tokens(self, question: str = QUESTION) -> int:
        """Return the number of tokens of a chat with one question."""
        messages = [{"role": "user", "content": question}]
        count: int = self.post("chat/completions", {"messages": messages, "max_tokens": 1})["usage"]["prompt_tokens"]
        return count

    def embed(self, texts: Sequence[str] = TEXTS) -> list[list[float]]:
        """Return the vector of each text."""
        body = {"model": EMBEDDING_MODEL, "input": texts}
        answer = requests.post(f"{self.url}/embeddings", json=body, timeout=120)
        answer.raise_for_status()
        return [row["embedding"] for row in answer.json()["data"]]


def assert_streamed(deltas: Sequence[str | None], text: str) -> None:
    """Check that a text came in several deltas that make the whole one."""
    assert "".join(delta or "" for delta in deltas) == text
    assert sum(bool(delta) for delta in deltas) > 1


def assert_city(city: Any) -> None:
    """Check an object against the schema that the scripts ask for."""
    assert set(city) == {"name", "capital", "visits", "sights"}
    assert city["name"] in _NAMES
    assert isinstance(city["capital"], bool)
    assert city["visits"] in range(10)
    assert 1 <= len(city["sights"]) <= 2
    for sight in city["sights"]:
        assert set(sight) == {"name"}
        assert sight["name"] in _SIGHTS


def assert_weather_arguments(arguments: Any) -> None:
    """Check the arguments of a call of `get_weather`, parsed or as JSON."""
    parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert set(parsed) == {"city"}
    assert parsed["city"] in _NAMES


def assert_weather_call(message: Any) -> str:
    """Check that an assistant's message calls `get_weather` once and says nothing else; return the call's id."""
    assert message["role"] == "assistant"
    assert not message["content"]
    (call,) = message["tool_calls"]
    assert call["id"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "get_weather"
    assert_weather_arguments(call["function"]["arguments"])
    identifier: str = call["id"]
    return identifier


def assert_vectors(vectors: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> None:
    """Check that vectors equal those of a plain request, and differ from each other."""
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert len({tuple(vector) for vector in vectors}) == len(vectors)

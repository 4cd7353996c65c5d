"""Answers as server-sent events, as they are made.

Source: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import time
from typing import Any
from uuid import uuid4

from hf_runtime.api.http.json_body import encode
from hf_runtime.api.openai.errors import error_object, in_clients_terms
from hf_runtime.api.openai.generation import SamplingRequest
from hf_runtime.api.openai.usage import Usage
from hf_runtime.api.streaming import Chunk
from hf_runtime.contract.errors import ServingError

#: From a choice's index and the next piece of its answer to the `choices` of the chunks that say so, one in each.
Deltas = Callable[[int, Mapping[str, Any]], Iterable[dict[str, Any]]]


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """What every answer begins with, and every chunk of one."""
    return {"id": f"{prefix}-{uuid4().hex}", "object": kind, "created": int(time()), "model": model}


class EventStream:
    """Writes a stream.

    A choice that fails is an event with `error`, after which the official client raises and leaves, which cancels the
    others; a client that reads on gets them whole.

    Args:
        opening: what each chunk begins with.
    """

    def __init__(self, asked: SamplingRequest, opening: Mapping[str, Any], deltas: Deltas) -> None:
        self._asked = asked
        self._opening = opening
        self._deltas = deltas
        self._usage = Usage(asked.n)

    def render(self, chunks: Sequence[Chunk]) -> bytes:
        """Events for chunks that come together."""
        return b"".join(_event(content) for chunk in chunks for content in self._contents(chunk))

    def end(self) -> bytes:
        """What a stream ends in: the usage, if it was asked for, and OpenAI's end mark."""
        usage = _event({**self._chunk([]), "usage": self._usage.counts()}) if self._asked.includes_usage else b""
        return usage + b"data: [DONE]\n\n"

    def _contents(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        delta = chunk.delta
        if isinstance(delta, ServingError):
            yield error_object(in_clients_terms(delta, type(self._asked).model_fields, self._asked.names))
        elif delta is not None:
            if "finish_reason" in delta:
                self._usage.add(chunk.index, delta)
            for choice in self._deltas(chunk.index, delta):
                yield self._chunk([choice])

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        content = {**self._opening, "choices": choices, "system_fingerprint": None}
        return {**content, "usage": None} if self._asked.includes_usage else content


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + encode(content) + b"\n\n"

"""Answers as server-sent events.

Source: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hf_runtime.api.http.json_body import encode_event
from hf_runtime.api.openai.chat import ChatChunkChoice, ChatCompletionChunk
from hf_runtime.api.openai.completions import Completion, CompletionChoice
from hf_runtime.api.openai.errors import describe_openai_error
from hf_runtime.api.openai.generation import SamplingRequest
from hf_runtime.api.openai.usage import UsageCounter
from hf_runtime.api.streaming import Chunk
from hf_runtime.contract.errors import ServingError

_Choice = ChatChunkChoice | CompletionChoice

#: Renders the next delta of a choice, given its index, as the only choice of zero or more events.
Deltas = Callable[[int, Mapping[str, Any]], Iterable[_Choice]]


class EventStream:
    """Renderer of a stream.

    A choice that fails is an event with `error`. The official client raises on it and leaves, which cancels the other
    choices; a client that reads on receives the others complete.

    Args:
        empty_chunk: the fields that all events share, without choices.
    """

    def __init__(self, parsed: SamplingRequest, empty_chunk: Completion | ChatCompletionChunk, deltas: Deltas) -> None:
        self._parsed = parsed
        self._empty_chunk = empty_chunk
        self._deltas = deltas
        self._usage = UsageCounter(parsed.n)

    def render(self, chunks: Sequence[Chunk]) -> bytes:
        """Return the events for chunks that arrived together."""
        return b"".join(encode_event(content) for chunk in chunks for content in self._make_events(chunk))

    def end(self) -> bytes:
        """Return the end of a stream: the usage if the client asked for it, and OpenAI's end mark."""
        usage = b""
        if self._parsed.includes_usage:
            usage = encode_event({**self._make_event([]), "usage": self._usage.count_tokens()})
        return usage + b"data: [DONE]\n\n"

    def _make_events(self, chunk: Chunk) -> Iterator[Mapping[str, Any]]:
        delta = chunk.delta
        if isinstance(delta, ServingError):
            yield describe_openai_error(self._parsed.translate_error(delta))
        elif delta is not None:
            if "generated_tokens" in delta:
                self._usage.add(chunk.index, delta)
            for choice in self._deltas(chunk.index, delta):
                yield self._make_event([choice])

    def _make_event(self, choices: list[_Choice]) -> dict[str, Any]:
        event: dict[str, Any] = {**self._empty_chunk, "choices": choices}
        if self._parsed.includes_continuous_usage:
            event["usage"] = self._usage.count_tokens()
        elif self._parsed.includes_usage:
            event["usage"] = None
        return event

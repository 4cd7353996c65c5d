"""Answers of `messages`: content blocks, whole or as a stream of events.

Source: https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NotRequired
from uuid import uuid4

import orjson
from typing_extensions import TypedDict

from hf_runtime.api.anthropic.errors import describe_anthropic_error
from hf_runtime.api.anthropic.messages import MessagesRequest
from hf_runtime.api.http.json_body import encode_event
from hf_runtime.api.streaming import Chunk
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import InferenceFailed, ServingError

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


@answer_type
class MessageUsage(TypedDict):
    """Token counts; `input_tokens` of the prompt are without those that were cached."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


@answer_type
class ContentBlock(TypedDict):
    """Text, thinking, or a called tool."""

    type: Literal["text", "thinking", "tool_use"]
    text: NotRequired[str]
    thinking: NotRequired[str]
    signature: NotRequired[str]
    id: NotRequired[str]
    name: NotRequired[str]
    input: NotRequired[dict[str, Any]]


@answer_type
class MessageAnswer(TypedDict):
    """The assistant's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


@answer_type
class MessageTokens(TypedDict):
    """Number of the prompt's tokens."""

    input_tokens: int


class MessageEvent(TypedDict):
    """An event of a stream; its other fields depend on its type."""

    type: str
    message: NotRequired[MessageAnswer]


#: Kind of a block that is still growing.
_Kind = Literal["text", "thinking"]


class MessageEvents:
    """Renderer of one message, as a stream of events or whole.

    The blocks are the same in both: the thinking, the text, the called tools.
    """

    def __init__(self, parsed: MessagesRequest) -> None:
        self._parsed = parsed
        self._message: MessageAnswer = {
            "id": f"msg_{uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": parsed.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _count_tokens({}),
        }
        self._kind: _Kind | None = None
        self._texts: list[str] = []
        #: Kept if a later event cannot be encoded: the error follows them.
        self._encoded: list[bytes] = []
        self._started = self._ended = False

    def render(self, chunks: Sequence[Chunk]) -> bytes:
        """Return the events for chunks that arrived together."""
        for chunk in chunks:
            for event in self._make_events(chunk):
                self._encoded.append(_encode(event))
        events, self._encoded = b"".join(self._encoded), []
        return events

    def end(self) -> bytes:
        """Return the end of a stream, which is an error if the answer has not ended."""
        return b"".join(map(_encode, self._fail(InferenceFailed("the answer ended before its last token"))))

    def render_whole(self, answer: Mapping[str, Any]) -> MessageAnswer:
        """Return the message with a whole answer."""
        for _ in self._add(answer):
            pass
        return self._message

    def _make_events(self, chunk: Chunk) -> Iterator[Mapping[str, Any]]:
        if isinstance(chunk.delta, ServingError):
            yield from self._fail(self._parsed.translate_error(chunk.delta))
        elif chunk.delta is not None:
            yield from self._add(chunk.delta)

    def _fail(self, error: ServingError) -> Iterator[Mapping[str, Any]]:
        if not self._ended:
            self._ended = True
            yield describe_anthropic_error(error)

    def _add(self, delta: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if not self._started:
            self._started = True
            yield {"type": "message_start", "message": self._message}
        if reasoning := delta.get("reasoning"):
            yield from self._add_text("thinking", reasoning)
        if text := delta["generated_text"]:
            yield from self._add_text("text", text)
        for call in delta.get("tool_calls") or ():
            yield from self._add_call(call)
        if "finish_reason" in delta:
            yield from self._finish(delta)

    def _add_text(self, kind: _Kind, text: str) -> Iterator[Mapping[str, Any]]:
        if self._kind != kind:
            yield from self._close_block()
            yield from self._open_block(kind)
        self._texts.append(text)
        change = (
            {"type": "text_delta", "text": text} if kind == "text" else {"type": "thinking_delta", "thinking": text}
        )
        yield {"type": "content_block_delta", "index": self._index, "delta": change}

    @property
    def _index(self) -> int:
        """Index of the open block, or of the next one."""
        return len(self._message["content"])

    def _open_block(self, kind: _Kind) -> Iterator[Mapping[str, Any]]:
        self._kind, self._texts = kind, []
        yield {"type": "content_block_start", "index": self._index, "content_block": _make_block(kind, "")}

    def _close_block(self) -> Iterator[Mapping[str, Any]]:
        if self._kind is None:
            return
        index, block = self._index, _make_block(self._kind, "".join(self._texts))
        self._kind = None
        self._message["content"].append(block)
        yield {"type": "content_block_stop", "index": index}

    def _add_call(self, call: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        yield from self._close_block()
        index = self._index
        block: ContentBlock = {"type": "tool_use", "id": f"toolu_{uuid4().hex[:24]}", "name": call["name"], "input": {}}
        yield {"type": "content_block_start", "index": index, "content_block": block}
        change = {"type": "input_json_delta", "partial_json": call["arguments"]}
        yield {"type": "content_block_delta", "index": index, "delta": change}
        self._message["content"].append({**block, "input": _parse_arguments(call["arguments"])})
        yield {"type": "content_block_stop", "index": index}

    def _finish(self, delta: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        is_cut = delta["finish_reason"] == "length"
        if not self._has_answer and not (self._kind == "thinking" and is_cut):
            yield from self._close_block()
            yield from self._open_block("text")
        yield from self._close_block()
        self._ended = True
        message = self._message
        message["usage"] = _count_tokens(delta)
        message["stop_reason"] = self._find_stop_reason(delta)
        if message["stop_reason"] == "stop_sequence":
            message["stop_sequence"] = delta["stop_sequence"]
        changed = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
        yield {"type": "message_delta", "delta": changed, "usage": message["usage"]}
        yield {"type": "message_stop"}

    @property
    def _has_answer(self) -> bool:
        """True if there is text or a call."""
        return self._kind == "text" or any(block["type"] != "thinking" for block in self._message["content"])

    def _find_stop_reason(self, delta: Mapping[str, Any]) -> StopReason:
        if delta["finish_reason"] == "length":
            return "max_tokens"
        if any(block["type"] == "tool_use" for block in self._message["content"]):
            return "tool_use"
        # The model's own stop strings end a turn.
        return "stop_sequence" if delta.get("stop_sequence") in self._parsed.stop_sequences else "end_turn"


def _encode(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\n".encode() + encode_event(event)


def _make_block(kind: _Kind, text: str) -> ContentBlock:
    if kind == "text":
        return {"type": "text", "text": text}
    return {"type": "thinking", "thinking": text, "signature": ""}


def _parse_arguments(arguments: str) -> dict[str, Any]:
    """Return the input of a call; empty if its arguments are no object."""
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _count_tokens(answer: Mapping[str, Any]) -> MessageUsage:
    cached = answer.get("cached_tokens", 0)
    return {
        "input_tokens": answer.get("prompt_tokens", 0) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": answer.get("generated_tokens", 0),
    }

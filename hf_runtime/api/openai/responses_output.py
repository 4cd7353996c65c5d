"""Output of `responses`: answers become output items, whole or as a stream of events.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import time
from typing import Any, Literal, NotRequired
from uuid import uuid4

from typing_extensions import TypedDict

from hf_runtime.api.http.json_body import encode_event
from hf_runtime.api.openai.errors import describe_openai_error
from hf_runtime.api.openai.logprobs import render_chat_logprobs
from hf_runtime.api.openai.responses import ResponseRequest
from hf_runtime.api.streaming import Chunk
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import HTTP_STATUS, InferenceFailed, ServingError

_Status = Literal["completed", "incomplete", "failed", "in_progress"]


@answer_type
class ResponseUsage(TypedDict):
    """Token counts of a response."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


@answer_type
class ResponseError(TypedDict):
    """The reason why a response failed."""

    code: str
    message: str


@answer_type
class IncompleteDetails(TypedDict):
    """The reason why a response is incomplete."""

    reason: Literal["max_output_tokens"]


@answer_type
class Response(TypedDict):
    """A response with its output items, and the fields of its request."""

    id: str
    object: Literal["response"]
    created_at: int
    status: _Status
    background: Literal[False]
    completed_at: int | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None


class ResponseEvent(TypedDict):
    """An event of a stream; its other fields depend on its type."""

    type: str
    sequence_number: int
    response: NotRequired[Response]


#: Codes of a failed response: https://platform.openai.com/docs/api-reference/responses/object.
_SERVER, _LIMIT, _INPUT = "server_error", "rate_limit_exceeded", "invalid_prompt"


class _TextItem:
    """An output item whose text is still growing.

    Args:
        kind: `message` or `reasoning`.
        index: of the item in the output.
    """

    def __init__(self, kind: Literal["message", "reasoning"], index: int) -> None:
        self.kind = kind
        self.id = f"{'msg' if kind == 'message' else 'rs'}_{uuid4().hex}"
        self.index = index
        self.texts: list[str] = []
        self.logprobs: list[Any] = []

    @property
    def event(self) -> str:
        """Type of the events of its text, without the last word."""
        return "response.output_text" if self.kind == "message" else "response.reasoning_text"

    def make_part(self, text: str, logprobs: Sequence[Any] = ()) -> dict[str, Any]:
        """Return the content part with a text."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "annotations": [], "logprobs": list(logprobs), "text": text}

    def render(self, status: str, content: Sequence[Any]) -> dict[str, Any]:
        """Return the item."""
        if self.kind == "reasoning":
            return {
                "id": self.id, "type": "reasoning", "summary": [], "content": list(content), "status": status,
                "encrypted_content": None,
            }  # fmt: skip
        return {
            "id": self.id, "type": "message", "role": "assistant", "status": status, "content": list(content)
        }  # fmt: skip


class ResponseEvents:
    """Renderer of one response, as a stream of events or whole.

    The output is the same in both: the reasoning, the message, the called functions.
    """

    def __init__(self, parsed: ResponseRequest) -> None:
        self._parsed = parsed
        self._response = parsed.make_response()
        self._number = 0
        self._item: _TextItem | None = None
        #: Kept if a later event cannot be encoded: the events of that error follow them.
        self._encoded: list[bytes] = []
        self._started = self._ended = False

    def render(self, chunks: Sequence[Chunk]) -> bytes:
        """Return the events for chunks that arrived together."""
        for chunk in chunks:
            for event in self._make_events(chunk):
                self._encoded.append(self._encode(event))
        events, self._encoded = b"".join(self._encoded), []
        return events

    def end(self) -> bytes:
        """Return the end of a stream, which is a failure if the answer has not ended."""
        error = InferenceFailed("the answer ended before its last token")
        return b"".join(self._encode(event) for event in self._fail(error))

    def render_whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response object with a whole answer."""
        for _ in self._add(answer):
            pass
        return self._response

    def _encode(self, event: dict[str, Any]) -> bytes:
        numbered = {"type": event["type"], "sequence_number": self._number, **event}
        encoded = f"event: {event['type']}\n".encode() + encode_event(numbered)
        self._number += 1
        return encoded

    def _make_events(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        if isinstance(chunk.delta, ServingError):
            yield from self._fail(self._parsed.translate_error(chunk.delta))
        elif chunk.delta is not None:
            yield from self._add(chunk.delta)

    def _start(self) -> Iterator[dict[str, Any]]:
        if not self._started:
            self._started = True
            yield {"type": "response.created", "response": self._response}
            yield {"type": "response.in_progress", "response": self._response}

    def _fail(self, error: ServingError) -> Iterator[dict[str, Any]]:
        if self._ended:
            return
        yield from self._start()
        self._ended = True
        described = describe_openai_error(error)["error"]
        by_status = _SERVER if HTTP_STATUS[type(error)] >= 500 else _INPUT
        code = _LIMIT if described["type"] == "rate_limit_error" else by_status
        self._response |= {"status": "failed", "error": {"code": code, "message": error.message}}
        yield {"type": "response.failed", "response": self._response}

    def _add(self, delta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._start()
        reasoning, text, logprobs = delta.get("reasoning"), delta["generated_text"], delta.get("logprobs")
        if reasoning:
            yield from self._add_text("reasoning", reasoning)
        if text or (logprobs and not reasoning):
            yield from self._add_text("message", text, logprobs or ())
        for call in delta.get("tool_calls") or ():
            yield from self._add_call(call)
        if "finish_reason" in delta:
            yield from self._finish(delta)

    def _add_text(
        self, kind: Literal["message", "reasoning"], text: str, logprobs: Sequence[Mapping[str, Any]] = ()
    ) -> Iterator[dict[str, Any]]:
        if self._item is None or self._item.kind != kind:
            yield from self._close_item("completed")
            yield from self._open_item(kind)
        item = self._item
        assert item is not None, "this is a bug: the item was opened above"
        item.texts.append(text)
        event: dict[str, Any] = {
            "type": f"{item.event}.delta", "item_id": item.id, "output_index": item.index, "content_index": 0,
            "delta": text,
        }  # fmt: skip
        if kind == "message":
            event["logprobs"] = render_chat_logprobs(logprobs)["content"] if logprobs else []
            item.logprobs += event["logprobs"]
        yield event

    def _open_item(self, kind: Literal["message", "reasoning"]) -> Iterator[dict[str, Any]]:
        item = self._item = _TextItem(kind, len(self._response["output"]))
        yield self._make_item_event("added", item.index, item.render("in_progress", []))
        yield {
            "type": "response.content_part.added", "item_id": item.id, "output_index": item.index, "content_index": 0,
            "part": item.make_part(""),
        }  # fmt: skip

    def _close_item(self, status: str) -> Iterator[dict[str, Any]]:
        item, self._item = self._item, None
        if item is None:
            return
        text = "".join(item.texts)
        place = {"item_id": item.id, "output_index": item.index, "content_index": 0}
        logprobs = {"logprobs": item.logprobs} if item.kind == "message" else {}
        part = item.make_part(text, item.logprobs)
        yield {"type": f"{item.event}.done", **place, "text": text, **logprobs}
        yield {"type": "response.content_part.done", **place, "part": part}
        rendered = item.render(status, [part])
        self._response["output"].append(rendered)
        yield self._make_item_event("done", item.index, rendered)

    def _add_call(self, call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._close_item("completed")
        index, arguments = len(self._response["output"]), call["arguments"]
        item = {
            "id": f"fc_{uuid4().hex}", "type": "function_call", "call_id": f"call_{uuid4().hex}", "name": call["name"],
            "arguments": arguments, "status": "completed",
        }  # fmt: skip
        place = {"item_id": item["id"], "output_index": index}
        yield self._make_item_event("added", index, {**item, "arguments": "", "status": "in_progress"})
        yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
        yield {
            "type": "response.function_call_arguments.done", **place, "name": call["name"], "arguments": arguments
        }  # fmt: skip
        self._response["output"].append(item)
        yield self._make_item_event("done", index, item)

    def _finish(self, delta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        is_cut = delta["finish_reason"] == "length"
        only_reasoning = self._item is not None and self._item.kind == "reasoning"
        if not self._has_answer and not (only_reasoning and is_cut):
            yield from self._close_item("completed")
            yield from self._open_item("message")
        yield from self._close_item("incomplete" if is_cut else "completed")
        self._ended = True
        usage = _count_tokens(delta)
        if is_cut:
            details = {"reason": "max_output_tokens"}
            self._response |= {"status": "incomplete", "incomplete_details": details, "usage": usage}
        else:
            self._response |= {"status": "completed", "completed_at": int(time()), "usage": usage}
        yield {"type": "response.incomplete" if is_cut else "response.completed", "response": self._response}

    @property
    def _has_answer(self) -> bool:
        """True if there is a message or a call."""
        is_open = self._item is not None and self._item.kind == "message"
        return is_open or any(item["type"] != "reasoning" for item in self._response["output"])

    def _make_item_event(self, verb: str, index: int, item: Mapping[str, Any]) -> dict[str, Any]:
        return {"type": f"response.output_item.{verb}", "output_index": index, "item": item}


def _count_tokens(answer: Mapping[str, Any]) -> ResponseUsage:
    prompt, generated = answer["prompt_tokens"], answer["generated_tokens"]
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": answer.get("cached_tokens", 0), "cache_write_tokens": 0},
        "output_tokens": generated,
        # The runner does not count the tokens of the reasoning.
        "output_tokens_details": {"reasoning_tokens": answer.get("reasoning_tokens", 0)},
        "total_tokens": prompt + generated,
    }

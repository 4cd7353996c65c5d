"""`chat/completions`: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field, model_validator

from hf_runtime.api.openai.generation import SamplingRequest
from hf_runtime.api.openai.logprobs import chat_logprobs
from hf_runtime.api.openai.stream import head
from hf_runtime.api.openai.usage import Usage
from hf_runtime.contract.chat import Message, NamedTool, Tool, ToolChoice
from hf_runtime.contract.errors import InvalidRequest


class ChatRequest(SamplingRequest):
    """A chat to be answered, as far as the model's context allows unless a maximum is given."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        for number, message in enumerate(self.messages):
            _check_ids(message, f"messages[{number}]")
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("only allowed when logprobs is true", field="top_logprobs")
        if not self.tools:
            for name in ("tool_choice", "parallel_tool_calls"):
                # Without tools, none is chosen anyway.
                if getattr(self, name) not in (None, "none"):
                    raise InvalidRequest("only allowed when tools are given", field=name)
        if isinstance(self.tool_choice, NamedTool):
            chosen, known = self.tool_choice.function.name, [tool.function.name for tool in self.tools]
            if chosen not in known:
                raise InvalidRequest(f"there is no tool {chosen}, but {', '.join(known)}", field="tool_choice")
        return self

    @property
    def size(self) -> tuple[str, int]:
        return "n", self.n

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        instance = {"messages": [message.turn() for message in self.messages], **self._tools()}
        return [(instance, parameters) for parameters in self.choices(self.parameters())]

    def _tools(self) -> dict[str, Any]:
        if not self.tools:
            return {}
        # As they were written: null has a meaning in a JSON schema.
        told: dict[str, Any] = {"tools": [tool.model_dump(exclude_unset=True) for tool in self.tools]}
        if self.tool_choice is not None:
            choice = self.tool_choice
            told["tool_choice"] = choice.model_dump() if isinstance(choice, NamedTool) else choice
        if self.parallel_tool_calls is not None:
            told["parallel_tool_calls"] = self.parallel_tool_calls
        return told

    def place(self, index: int) -> str:
        return "messages"

    @property
    def names(self) -> Mapping[str, str]:
        maximum = "max_tokens" if self.max_completion_tokens is None and self.max_tokens else "max_completion_tokens"
        logprobs = "logprobs" if self.top_logprobs is None else "top_logprobs"
        return {**super().names, "max_new_tokens": maximum, "fill_context": maximum, "logprobs": logprobs}

    def parameters(self) -> dict[str, Any]:
        parameters = {**super().parameters(), "return_full_text": False}
        maximum = self.max_completion_tokens or self.max_tokens
        parameters |= {"fill_context": True} if maximum is None else {"max_new_tokens": maximum}
        if self.logprobs:
            parameters["logprobs"] = self.top_logprobs or 0
        if self.response_format is not None and self.response_format != {"type": "text"}:
            parameters["response_format"] = self.response_format
        return parameters

    def response(self, answers: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
        """All answers, as OpenAI's chat completion object."""
        usage = Usage(self.n)
        choices = []
        for index, (answer,) in enumerate(answers):
            usage.add(index, answer)
            choices.append(_choice(index, answer))
        opening = head("chatcmpl", "chat.completion", self.model)
        return {**opening, "choices": choices, "usage": usage.counts(), "system_fingerprint": None}

    def opening(self) -> dict[str, Any]:
        """What each chunk of a stream begins with."""
        return head("chatcmpl", "chat.completion.chunk", self.model)


def _check_ids(message: Message, path: str) -> None:
    """Refuse calls and results without the ids that connect them."""
    if message.role == "tool" and message.tool_call_id is None:
        raise InvalidRequest("field required, the call that this is the result of", field=f"{path}.tool_call_id")
    for number, call in enumerate(message.tool_calls or ()):
        if call.id is None:
            raise InvalidRequest("field required", field=f"{path}.tool_calls[{number}].id")


def _choice(index: int, answer: Mapping[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer["generated_text"], "refusal": None}
    if calls := answer.get("tool_calls"):
        message |= {"content": message["content"] or None, "tool_calls": [_call(call) for call in calls]}
    logprobs = chat_logprobs(answer["logprobs"]) if "logprobs" in answer else None
    reason = "tool_calls" if calls else answer["finish_reason"]
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["arguments"]}
    return {"id": f"call_{uuid4().hex}", "type": "function", "function": function}


class ChatDeltas:
    """The choices of a stream's chunks: who speaks, then what is said and called, and at last why it ended."""

    def __init__(self) -> None:
        self._begun: set[int] = set()
        self._calls: Counter[int] = Counter()

    def __call__(self, index: int, delta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if index not in self._begun:
            self._begun.add(index)
            yield _delta(index, {"role": "assistant", "content": "", "refusal": None})
        if delta["generated_text"] or delta.get("logprobs"):
            yield _delta(index, {"content": delta["generated_text"]}, delta.get("logprobs"))
        for call in delta.get("tool_calls") or ():
            yield _delta(index, {"tool_calls": [{"index": self._calls[index], **_call(call)}]})
            self._calls[index] += 1
        if "finish_reason" in delta:
            reason = "tool_calls" if self._calls[index] else delta["finish_reason"]
            yield {**_delta(index, {}), "finish_reason": reason}


def _delta(index: int, delta: dict[str, Any], logprobs: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    rendered = chat_logprobs(logprobs) if logprobs else None
    return {"index": index, "delta": delta, "logprobs": rendered, "finish_reason": None}

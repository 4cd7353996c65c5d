"""`chat/completions`: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from time import time
from typing import Any, ClassVar, Literal, NotRequired
from uuid import uuid4

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from hf_runtime.api.openai.generation import FinishReason, GeneratedAnswer, SamplingRequest
from hf_runtime.api.openai.logprobs import (
    ChatLogprobs,
    PromptLogprobs,
    render_chat_logprobs,
    render_prompt_logprobs,
)
from hf_runtime.api.openai.usage import TokenUsage, UsageCounter
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.chat import AllowedToolChoice, Message, Messages, NamedTool, ReasoningEffort, Tool, ToolChoice
from hf_runtime.contract.errors import InvalidRequest


@answer_type
class CalledFunction(TypedDict):
    """A function, and its arguments as JSON."""

    name: str
    arguments: str


@answer_type
class ChatToolCall(TypedDict):
    """A tool that is called; `index` is of streams."""

    index: NotRequired[int]
    id: str
    type: Literal["function"]
    function: CalledFunction


@answer_type
class ChatAnswer(TypedDict):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[ChatToolCall]]


@answer_type
class ChatChoice(TypedDict):
    """An answer to the chat."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


@answer_type
class ChatCompletion(GeneratedAnswer):
    """The answers to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: TokenUsage
    prompt_logprobs: NotRequired[PromptLogprobs]


@answer_type
class ChatDelta(TypedDict):
    """The next delta of the assistant's turn."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    refusal: NotRequired[None]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[ChatToolCall]]


@answer_type
class ChatChunkChoice(TypedDict):
    """The next delta of an answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


@answer_type
class ChatCompletionChunk(GeneratedAnswer):
    """An event of a stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: NotRequired[TokenUsage | None]


#: Fields of a chat that the runner gets unchanged.
_CHAT_FIELDS = ("reasoning_effort", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")


class ChatRequest(SamplingRequest):
    """A chat to answer; without a maximum, the answer may fill the model's context.

    `chat_template_kwargs`, `add_generation_prompt`, `continue_final_message` and `include_reasoning` are vLLM's.
    """

    neutral_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "add_special_tokens": (False,),
        "truncation_side": ("left",),
    }

    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: ReasoningEffort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    include_reasoning: bool = True

    @model_validator(mode="after")
    def _check_fields(self) -> ChatRequest:
        for number, message in enumerate(self.messages):
            _check_ids(message, f"messages[{number}]")
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("only allowed when logprobs is true", field="top_logprobs")
        if not self.tools:
            for name in ("tool_choice", "parallel_tool_calls"):
                # `none` is what happens without tools anyway.
                if getattr(self, name) not in (None, "none"):
                    raise InvalidRequest("only allowed when tools are given", field=name)
        for chosen in _find_chosen(self.tool_choice):
            known = [tool.function.name for tool in self.tools]
            if chosen not in known:
                raise InvalidRequest(f"there is no tool {chosen}, but {', '.join(known)}", field="tool_choice")
        return self

    def render_reasoning(self, answer: Mapping[str, Any]) -> ChatDelta:
        """Return the reasoning of an answer or a delta, under both names that clients read."""
        reasoning = answer.get("reasoning") if self.include_reasoning else None
        return {"reasoning_content": reasoning, "reasoning": reasoning} if reasoning else {}

    @property
    def item_count(self) -> tuple[str, int]:
        return "n", self.n

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        instance = {"messages": [message.turn() for message in self.messages], **self._make_tool_fields()}
        instance |= {name: value for name in _CHAT_FIELDS if (value := getattr(self, name)) is not None}
        return [(instance, parameters) for parameters in self.vary_seed(self.make_parameters())]

    def _make_tool_fields(self) -> dict[str, Any]:
        if not self.tools:
            return {}
        # Only the fields that the client sent: null has a meaning in a JSON schema.
        fields: dict[str, Any] = {"tools": [tool.model_dump(exclude_unset=True) for tool in self.tools]}
        if self.tool_choice is not None:
            choice = self.tool_choice
            fields["tool_choice"] = choice if isinstance(choice, str) else choice.model_dump()
        if self.parallel_tool_calls is not None:
            fields["parallel_tool_calls"] = self.parallel_tool_calls
        return fields

    def locate(self, index: int) -> str:
        return "messages"

    @property
    def field_names(self) -> Mapping[str, str]:
        maximum = "max_tokens" if self.max_completion_tokens is None and self.max_tokens else "max_completion_tokens"
        logprobs = "logprobs" if self.top_logprobs is None else "top_logprobs"
        return {**super().field_names, "max_new_tokens": maximum, "fill_context": maximum, "logprobs": logprobs}

    def make_parameters(self) -> dict[str, Any]:
        parameters = {**super().make_parameters(), "return_full_text": False}
        maximum = self.max_completion_tokens or self.max_tokens
        parameters |= {"fill_context": True} if maximum is None else {"max_new_tokens": maximum}
        if self.logprobs:
            parameters["logprobs"] = self.top_logprobs or 0
        return parameters

    def render(self, answers: Sequence[Sequence[Mapping[str, Any]]]) -> ChatCompletion:
        """Return the chat completion object with all answers."""
        usage = UsageCounter(self.n)
        choices = []
        for index, (answer,) in enumerate(answers):
            usage.add(index, answer)
            choices.append(_render_choice(index, answer, self.render_reasoning(answer)))
        completion: ChatCompletion = {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion",
            "created": int(time()),
            "model": self.model,
            "choices": choices,
            "usage": usage.count_tokens(),
            "system_fingerprint": None,
        }
        if self.prompt_logprobs is not None:
            prompt = answers[0][0]["prompt_logprobs"]
            completion["prompt_logprobs"] = render_prompt_logprobs(prompt, self.prompt_logprobs)
        return completion

    def make_empty_chunk(self) -> ChatCompletionChunk:
        """Return the fields that all events of a stream share, without choices."""
        return {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time()),
            "model": self.model,
            "choices": [],
            "system_fingerprint": None,
        }


def _find_chosen(choice: ToolChoice | None) -> list[str]:
    """Return the names of the functions that a tool choice names."""
    if isinstance(choice, NamedTool):
        return [choice.function.name]
    return choice.names if isinstance(choice, AllowedToolChoice) else []


def _check_ids(message: Message, path: str) -> None:
    """Refuse calls and results without the ids that connect them."""
    if message.role == "tool" and message.tool_call_id is None:
        raise InvalidRequest("field required, the call that this is the result of", field=f"{path}.tool_call_id")
    for number, call in enumerate(message.tool_calls or ()):
        if call.id is None:
            raise InvalidRequest("field required", field=f"{path}.tool_calls[{number}].id")


def _render_choice(index: int, answer: Mapping[str, Any], reasoning: ChatDelta) -> ChatChoice:
    message: ChatAnswer = {"role": "assistant", "content": answer["generated_text"], "refusal": None}
    if reasoning:
        message["reasoning_content"], message["reasoning"] = reasoning["reasoning_content"], reasoning["reasoning"]
    if calls := answer.get("tool_calls"):
        message["content"] = message["content"] or None
        message["tool_calls"] = [_render_call(call) for call in calls]
    return {
        "index": index,
        "message": message,
        "logprobs": render_chat_logprobs(answer["logprobs"]) if "logprobs" in answer else None,
        "finish_reason": _find_finish_reason(answer, calls=bool(calls)),
    }


def _find_finish_reason(answer: Mapping[str, Any], *, calls: bool) -> FinishReason:
    """Return the finish reason; an answer that was cut does not end with its calls."""
    reason: FinishReason = answer["finish_reason"]
    return "tool_calls" if calls and reason == "stop" else reason


def _render_call(call: Mapping[str, Any]) -> ChatToolCall:
    function: CalledFunction = {"name": call["name"], "arguments": call["arguments"]}
    return {"id": f"call_{uuid4().hex}", "type": "function", "function": function}


class ChatDeltas:
    """Renderer of the choices of a stream's events.

    A choice starts with the role, continues with reasoning, text and tool calls, and ends with the finish reason.
    """

    def __init__(self, parsed: ChatRequest) -> None:
        self._parsed = parsed
        self._started: set[int] = set()
        self._calls: Counter[int] = Counter()

    def __call__(self, index: int, delta: Mapping[str, Any]) -> Iterator[ChatChunkChoice]:
        if index not in self._started:
            self._started.add(index)
            yield _render_delta(index, {"role": "assistant", "content": "", "refusal": None})
        logprobs = delta.get("logprobs")
        if reasoning := self._parsed.render_reasoning(delta):
            yield _render_delta(index, reasoning, logprobs)
            logprobs = None
        if delta["generated_text"] or logprobs:
            yield _render_delta(index, {"content": delta["generated_text"]}, logprobs)
        for call in delta.get("tool_calls") or ():
            yield _render_delta(index, {"tool_calls": [{"index": self._calls[index], **_render_call(call)}]})
            self._calls[index] += 1
        if "finish_reason" in delta:
            last = _render_delta(index, {})
            last["finish_reason"] = _find_finish_reason(delta, calls=bool(self._calls[index]))
            yield last


def _render_delta(index: int, delta: ChatDelta, logprobs: Sequence[Mapping[str, Any]] | None = None) -> ChatChunkChoice:
    rendered = render_chat_logprobs(logprobs) if logprobs else None
    return {"index": index, "delta": delta, "logprobs": rendered, "finish_reason": None}

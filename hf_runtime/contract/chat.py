"""Chats and tools in the format of OpenAI's API.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, Field, PlainValidator, ValidationError, model_validator

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.validation import StrictModel, make_field_error, make_invalid_request


class TextPart(StrictModel):
    """Text part of a message. Text models accept no other kind of part."""

    type: Literal["text"]
    text: str


def _split_content(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is not None and not isinstance(content, list):
        raise ValueError("must be a string or a list of text parts")
    return content


_Content = Annotated[
    list[TextPart] | None, BeforeValidator(_split_content, json_schema_input_type=str | list[TextPart] | None)
]


def _parse_object(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:  # also for NaN and lone surrogates
        raise ValueError("must be an object, or one as JSON") from None
    if not isinstance(parsed, dict):
        raise ValueError("must be an object, or one as JSON")
    return parsed


class FunctionCall(StrictModel):
    """Called function. `arguments` is an object, or a string with an object in JSON."""

    name: str
    arguments: Annotated[dict[str, Any], BeforeValidator(_parse_object, json_schema_input_type=str | dict[str, Any])]


class ToolCall(StrictModel):
    """Tool call of an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(StrictModel):
    """One turn of a chat.

    The message in an answer of this server is accepted unchanged. Only the assistant calls tools.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Content = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_fields(cls, message: Any) -> Any:
        """Drop empty fields.

        Clients send back the whole message of an answer, with its empty fields.
        """
        if not isinstance(message, dict):
            return message
        return {name: value for name, value in message.items() if value not in (None, [])}

    @model_validator(mode="after")
    def _check_fields(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise make_field_error("tool_calls", f"only an assistant calls tools, this is a turn of role {self.role}")
        if self.content is None and not self.tool_calls:
            raise make_field_error("content", "field required")
        return self

    @property
    def text(self) -> str | None:
        """Content as one string, its parts joined by line breaks, or None."""
        return None if self.content is None else "\n".join(part.text for part in self.content)

    def turn(self) -> dict[str, Any]:
        """Return the message as a dict with its content as one string, without empty fields."""
        turn = self.model_dump(exclude_none=True)
        return turn if self.content is None else {**turn, "content": self.text}


class Function(StrictModel):
    """Function that the answer may call. `parameters` is the JSON schema of its arguments."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(StrictModel):
    """Tool that the client runs for the model."""

    type: Literal["function"]
    function: Function


class NamedFunction(StrictModel):
    """Name of a function."""

    name: str


class NamedTool(StrictModel):
    """Tool that the answer must call."""

    type: Literal["function"]
    function: NamedFunction


def _parse_tool_choice(value: Any) -> Any:
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return value
    try:
        return NamedTool.model_validate(value)
    except ValidationError:
        raise ValueError(
            'must be "none", "auto", "required" or {"type": "function", "function": {"name": …}}'
        ) from None


_Choice = Literal["none", "auto", "required"] | NamedTool

#: Choice whether the answer calls a tool, and which one.
ToolChoice = Annotated[_Choice, PlainValidator(_parse_tool_choice, json_schema_input_type=_Choice)]


class Chat(StrictModel):
    """Messages of a chat and the tools that the answer may call."""

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] = Field(default_factory=list, max_length=128)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _check_tools(self) -> Chat:
        names = self.tool_names
        if twice := next((i for i, name in enumerate(names) if name in names[:i]), None):
            raise make_field_error(f"tools[{twice}].function.name", f"there is another tool {names[twice]}")
        if self.tool_choice == "required" and not names:
            raise make_field_error("tool_choice", "there are no tools to choose from")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise make_field_error("tool_choice", f"there is no tool {self.tool_choice.function.name}")
        return self

    @property
    def continues_answer(self) -> bool:
        """True if the last message is the beginning of an answer, which the model continues."""
        return self.messages[-1].role == "assistant" and not self.messages[-1].tool_calls

    @property
    def tool_names(self) -> list[str]:
        """Names of all tools."""
        return [tool.function.name for tool in self.tools]

    @property
    def usable_tools(self) -> list[dict[str, Any]]:
        """Tools that the answer may call, as in the request. Empty if `tool_choice` is `none`."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_unset=True) for tool in self.tools]

    @property
    def choice(self) -> Any:
        """`none`, `auto`, `required`, or an object with the name of a function."""
        if not self.tools:
            return "none"
        return self.tool_choice.model_dump() if isinstance(self.tool_choice, NamedTool) else self.tool_choice


def parse_chat(instance: Any) -> Chat:
    """Return the chat of an instance.

    Args:
        instance: a list of messages, or an object with `messages` and, optionally, tools.

    Raises:
        InvalidRequest: the instance is no chat. The error names the first wrong field.
    """
    if isinstance(instance, list):
        instance = {"messages": instance}
    if not isinstance(instance, dict):
        raise InvalidRequest("must be a list of messages, or an object with messages")
    try:
        return Chat.model_validate(instance)
    except ValidationError as error:
        raise make_invalid_request(error) from None

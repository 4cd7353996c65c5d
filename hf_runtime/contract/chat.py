"""A chat with the tools that its answer may call, as OpenAI's API has it.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.validation import field_error, invalid_request


class ChatModel(BaseModel):
    """Base of everything that a client sends in a chat: unknown fields and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TextPart(ChatModel):
    """A part of a message; a text model takes no other kind."""

    type: Literal["text"]
    text: str


def _as_parts(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is not None and not isinstance(content, list):
        raise ValueError("must be a string or a list of text parts")
    return content


_Content = Annotated[
    list[TextPart] | None, BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart] | None)
]


def _object(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:  # NaN and halves of surrogate pairs, too
        raise ValueError("must be an object, or one as JSON") from None
    if not isinstance(parsed, dict):
        raise ValueError("must be an object, or one as JSON")
    return parsed


class FunctionCall(ChatModel):
    """A function that was called; `arguments` is an object, or one as JSON."""

    name: str
    arguments: Annotated[dict[str, Any], BeforeValidator(_object, json_schema_input_type=str | dict[str, Any])]


class ToolCall(ChatModel):
    """A call in an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(ChatModel):
    """One turn of a chat; an answer of this server is one, as it stands. Only an assistant calls tools."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Content = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, message: Any) -> Any:
        """Drop the empty fields of an answer, which clients send back whole."""
        if not isinstance(message, dict):
            return message
        return {name: value for name, value in message.items() if value not in (None, [])}

    @model_validator(mode="after")
    def _is_whole(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise field_error("tool_calls", f"only an assistant calls tools, this is a turn of role {self.role}")
        if self.content is None and not self.tool_calls:
            raise field_error("content", "field required")
        return self

    @property
    def text(self) -> str | None:
        """The content as one string, its parts joined by line breaks; None if there is none."""
        return None if self.content is None else "\n".join(part.text for part in self.content)

    def turn(self) -> dict[str, Any]:
        """Return the message as an object with its content as one string, without empty fields."""
        turn = self.model_dump(exclude_none=True)
        return turn if self.content is None else {**turn, "content": self.text}


class Function(ChatModel):
    """A function that the answer may call; `parameters` is the JSON schema of its arguments."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(ChatModel):
    """A tool that a client runs for the model."""

    type: Literal["function"]
    function: Function


class NamedFunction(ChatModel):
    """A function by its name."""

    name: str


class NamedTool(ChatModel):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


def _tool_choice(value: Any) -> Any:
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return value
    try:
        return NamedTool.model_validate(value)
    except ValidationError:
        raise ValueError(
            'must be "none", "auto", "required" or {"type": "function", "function": {"name": …}}'
        ) from None


_Choice = Literal["none", "auto", "required"] | NamedTool

#: Whether, and which, a tool is called.
ToolChoice = Annotated[_Choice, PlainValidator(_tool_choice, json_schema_input_type=_Choice)]


class Chat(ChatModel):
    """The messages of a chat, and the tools that its answer may call."""

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] = Field(default_factory=list, max_length=128)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _tools_agree(self) -> Chat:
        names = self.tool_names
        if twice := next((i for i, name in enumerate(names) if name in names[:i]), None):
            raise field_error(f"tools[{twice}].function.name", f"there is another tool {names[twice]}")
        if self.tool_choice == "required" and not names:
            raise field_error("tool_choice", "there are no tools to choose from")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise field_error("tool_choice", f"there is no tool {self.tool_choice.function.name}")
        return self

    @property
    def is_begun(self) -> bool:
        """True for a chat that ends with the beginning of an answer, which is to be continued."""
        return self.messages[-1].role == "assistant" and not self.messages[-1].tool_calls

    @property
    def tool_names(self) -> list[str]:
        """Names of all tools."""
        return [tool.function.name for tool in self.tools]

    @property
    def usable_tools(self) -> list[dict[str, Any]]:
        """Tools that the answer may call, as the client wrote them; none if none may be called."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_unset=True) for tool in self.tools]

    @property
    def choice(self) -> Any:
        """`none`, `auto`, `required`, or an object that names a function."""
        if not self.tools:
            return "none"
        return self.tool_choice.model_dump() if isinstance(self.tool_choice, NamedTool) else self.tool_choice


def parse_chat(instance: Any) -> Chat:
    """Return the chat of an instance: a list of messages, or an object with `messages` and perhaps tools.

    Raises:
        InvalidRequest: it is none; names the first wrong field.
    """
    if isinstance(instance, list):
        instance = {"messages": instance}
    if not isinstance(instance, dict):
        raise InvalidRequest("must be a list of messages, or an object with messages")
    try:
        return Chat.model_validate(instance)
    except ValidationError as error:
        raise invalid_request(error) from None

"""A chat as an instance, with the tools that its answer may call."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.parameters import describe


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


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


class FunctionCall(_Strict):
    """What was called; `arguments` is an object, or one as JSON."""

    name: str
    arguments: Annotated[dict[str, Any], BeforeValidator(_object)]


class Call(_Strict):
    """A call in an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Strict):
    """One turn of a chat. Only an assistant calls tools, and may say nothing else."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls: only an assistant calls tools, this is a turn of role {self.role}")
        if self.content is None and not self.tool_calls:
            raise ValueError("content: field required")
        return self


class Function(_Strict):
    """A function that the answer may call; `parameters` is the JSON schema of its arguments."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    """The only kind of tool."""

    type: Literal["function"]
    function: Function


class _Named(_Strict):
    name: str


class NamedTool(_Strict):
    """The one tool that must be called."""

    type: Literal["function"]
    function: _Named


def _choice(value: Any) -> Any:
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return value
    try:
        return NamedTool.model_validate(value)
    except ValidationError:
        raise ValueError(
            'must be "none", "auto", "required" or {"type": "function", "function": {"name": …}}'
        ) from None


class Chat(_Strict):
    """An instance that is more than a string, as OpenAI's API writes it.

    Source: https://platform.openai.com/docs/api-reference/chat/create
    """

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] = Field(default_factory=list, max_length=128)
    tool_choice: Annotated[Literal["none", "auto", "required"] | NamedTool, PlainValidator(_choice)] = "auto"
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _tools_agree(self) -> Chat:
        names = self.tool_names
        if twice := next((i for i, name in enumerate(names) if name in names[:i]), None):
            raise ValueError(f"tools[{twice}].function.name: there is another tool {names[twice]}")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice: there are no tools to choose from")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice: there is no tool {self.tool_choice.function.name}")
        return self

    @property
    def is_begun(self) -> bool:
        """Whether the chat ends with the beginning of an answer, which is to be continued."""
        return self.messages[-1].role == "assistant" and not self.messages[-1].tool_calls

    @property
    def tool_names(self) -> list[str]:
        """Of all tools."""
        return [tool.function.name for tool in self.tools]

    @property
    def usable_tools(self) -> list[dict[str, Any]]:
        """Tools that the answer may call, as they were written; none if none is to be called."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_unset=True) for tool in self.tools]

    @property
    def choice(self) -> Any:
        """`none`, `auto`, `required`, or an object that names a function."""
        if not self.tools:
            return "none"
        return self.tool_choice.model_dump() if isinstance(self.tool_choice, NamedTool) else self.tool_choice


def parse(instance: Any) -> Chat:
    """The chat that an instance is: a list of messages, or an object with `messages` and perhaps tools.

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
        raise InvalidRequest(_path(describe(error, ""))) from None


def _path(message: str) -> str:
    """Fields that go together are checked by what holds them, which is named before them: `messages[0]: content: …`."""
    place, _, rest = message.partition(": ")
    field, colon, _ = rest.partition(": ")
    if colon and (not place or place.startswith(".messages[")) and " " not in field:
        return f"{place}.{rest}".removeprefix(".")
    return message.removeprefix(".")

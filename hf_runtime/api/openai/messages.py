"""Turns of a chat, and tools, as clients write them: https://platform.openai.com/docs/api-reference/chat/create."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, ValidationError, model_validator

from hf_runtime.api.openai.schema import OpenAIModel


class TextPart(OpenAIModel):
    """The only kind of content that a text model reads."""

    type: Literal["text"]
    text: str


def _parts(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is not None and not isinstance(content, list):
        raise ValueError("must be a string or a list of text parts")
    return content


_Content = Annotated[list[TextPart] | None, BeforeValidator(_parts, json_schema_input_type=str | list[TextPart] | None)]


class FunctionCall(OpenAIModel):
    """What an earlier answer called."""

    name: str
    arguments: str


class ToolCall(OpenAIModel):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(OpenAIModel):
    """One turn. An answer of this server is one too, as it stands."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Content = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, message: Any) -> Any:
        """Clients send answers back whole, with the fields in which there was nothing."""
        if not isinstance(message, dict):
            return message
        return {name: value for name, value in message.items() if value not in (None, [])}

    @model_validator(mode="after")
    def _is_whole(self) -> Message:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError(f"tool_calls: only an assistant calls tools, this is a turn of role {self.role}")
        if self.content is None and not self.tool_calls:
            raise ValueError("content: field required")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("tool_call_id: field required, the call that this is the result of")
        return self

    def turn(self) -> dict[str, Any]:
        """The turn for the runner, its content one string or None."""
        content = None if self.content is None else "\n".join(part.text for part in self.content)
        given = self.model_dump(exclude={"content"}, exclude_none=True)
        return {"role": self.role, "content": content, **given}


class Function(OpenAIModel):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(OpenAIModel):
    """The only kind of tool that a client can run for every model."""

    type: Literal["function"]
    function: Function


class NamedFunction(OpenAIModel):
    """A function by its name."""

    name: str


class NamedTool(OpenAIModel):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


def _tool_choice(value: Any) -> str | NamedTool:
    if value in ("none", "auto", "required"):
        return str(value)
    try:
        return NamedTool.model_validate(value)
    except ValidationError:
        raise ValueError(
            'must be "none", "auto", "required" or {"type": "function", "function": {"name": …}}'
        ) from None


_Choice = Literal["none", "auto", "required"] | NamedTool

#: Whether, and which, a tool is called.
ToolChoice = Annotated[str | NamedTool, PlainValidator(_tool_choice, json_schema_input_type=_Choice)]

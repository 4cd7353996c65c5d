"""Chats and tools in the format of OpenAI's API.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationError, model_validator

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.validation import StrictModel, TolerantModel, make_field_error, make_invalid_request

#: Fields that clients and gateways add to any object of a chat; they hold hints for other servers.
_HINTS = frozenset({"cache_control", "extra_content", "prompt_cache_breakpoint", "provider_specific_fields"})

#: Names of the text in the kinds of parts that are text.
_TEXT_OF_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}

#: Keywords of a JSON schema whose values are data, in which null has a meaning.
_DATA_KEYWORDS = frozenset({"const", "default", "enum", "example", "examples"})
#: Levels of a JSON schema in which keywords that are null are dropped.
_SCHEMA_LEVELS = 100


#: More hints on parts, and on messages.
_PART_HINTS = _HINTS | {"annotations", "id", "index", "logprobs", "status"}
_MESSAGE_HINTS = _PART_HINTS | {
    "created", "created_at", "finish_reason", "parsed", "reasoning_details", "stop_reason", "thinking_blocks",
    "token_ids",
}  # fmt: skip
#: Fields of messages that models of texts cannot read.
_LOST_FIELDS = {"audio": "this model reads text only", "function_call": "use tool_calls"}


class TextPart(StrictModel):
    """Text part of a message. Text models accept no other kind of part."""

    type: Literal["text"]
    text: str


def _split_content(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is not None and not isinstance(content, list):
        raise ValueError("must be a string or a list of text parts")
    return content and [_read_part(part) for part in content if part is not None]


def _read_part(part: Any) -> Any:
    """Return a part without hints, and as a text part if it is one under another name."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        return part
    given = {name: value for name, value in part.items() if value is not None and name not in _PART_HINTS}
    if isinstance(kind := given.get("type"), str) and (name := _TEXT_OF_PARTS.get(kind)):
        given["type"] = "text"
        if name in given:
            given["text"] = given.pop(name)
    return given


_Content = Annotated[
    list[TextPart] | None,
    BeforeValidator(_split_content, json_schema_input_type=str | list[TextPart | str | None] | None),
]


def _parse_object(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        # The arguments of a function without parameters, as some models and clients write them.
        return {}
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:  # also for NaN and lone surrogates
        raise ValueError("must be an object, or one as JSON") from None
    if parsed is not None and not isinstance(parsed, dict):
        raise ValueError("must be an object, or one as JSON")
    return parsed or {}


class FunctionCall(TolerantModel):
    """Called function. `arguments` is an object, or a string with one in JSON or with nothing."""

    hints = _HINTS | {"parsed_arguments"}

    name: str
    arguments: Annotated[
        dict[str, Any], BeforeValidator(_parse_object, json_schema_input_type=str | dict[str, Any])
    ] = Field(default_factory=dict)


class ToolCall(TolerantModel):
    """Tool call of an earlier answer."""

    hints = _HINTS | {"index", "status"}

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


def _drop_null_elements(value: Any) -> Any:
    return [each for each in value if each is not None] if isinstance(value, list) else value


class Message(StrictModel):
    """One turn of a chat.

    The message in an answer of this server is accepted unchanged, and so are messages with the fields that other
    servers and clients add. Only the assistant calls tools.

    Attributes:
        reasoning_content: thoughts of the assistant before the content; clients may call them `reasoning`.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Content = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[
        list[ToolCall] | None,
        BeforeValidator(_drop_null_elements, json_schema_input_type=list[ToolCall | None] | None),
    ] = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_fields(cls, message: Any) -> Any:
        """Drop empty fields and hints, and read fields that have other names elsewhere.

        Clients send back the whole message of an answer, with its empty fields.
        """
        if not isinstance(message, dict):
            return message
        given = {name: value for name, value in message.items() if value not in (None, [])}
        if given.get("reasoning_content") == "":
            del given["reasoning_content"]
        if _MESSAGE_FIELDS.issuperset(given):
            return given
        for name, instead in _LOST_FIELDS.items():
            if given.pop(name, None):
                raise make_field_error(name, f"not supported, {instead}")
        given = {name: value for name, value in given.items() if name not in _MESSAGE_HINTS}
        thoughts, refusal = given.pop("reasoning", None), given.pop("refusal", None)
        if isinstance(thoughts, str) and thoughts:
            given.setdefault("reasoning_content", thoughts)
        if isinstance(refusal, str) and refusal and not given.get("content"):
            given["content"] = refusal
        return given

    @model_validator(mode="after")
    def _check_fields(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise make_field_error("tool_calls", f"only an assistant calls tools, this is a turn of role {self.role}")
        if self.content is None and self.role != "assistant":
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


_MESSAGE_FIELDS = frozenset(Message.model_fields)


def _drop_empty_last_turn(messages: list[Message]) -> list[Message]:
    """Drop an empty turn of the assistant at the end, which some clients add for the answer."""
    last = messages[-1]
    if last.role != "assistant" or last.text or last.tool_calls:
        return messages
    if len(messages) == 1:
        raise ValueError("there is no turn to answer, only an empty one of the assistant")
    return messages[:-1]


#: Turns of a chat, at least one.
Messages = Annotated[list[Message], Field(min_length=1), AfterValidator(_drop_empty_last_turn)]


def _drop_null_keywords(schema: Any, levels: int = _SCHEMA_LEVELS) -> Any:
    """Return a JSON schema without the keywords that are null, as clients write unset ones."""
    if isinstance(schema, list) and levels:
        return [_drop_null_keywords(each, levels - 1) for each in schema]
    if not isinstance(schema, dict) or not levels:
        return schema
    return {
        name: value if name in _DATA_KEYWORDS else _drop_null_keywords(value, levels - 1)
        for name, value in schema.items()
        if value is not None or name in _DATA_KEYWORDS
    }


class Function(TolerantModel):
    """Function that the answer may call. `parameters` is the JSON schema of its arguments."""

    hints = _HINTS

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, BeforeValidator(_drop_null_keywords)] = None
    strict: bool | None = None


class Tool(TolerantModel):
    """Tool that the client runs for the model."""

    hints = _HINTS

    type: Literal["function"]
    function: Function


class NamedFunction(TolerantModel):
    """Name of a function."""

    hints = _HINTS | {"description", "parameters", "strict"}

    name: str


class NamedTool(TolerantModel):
    """Tool that the answer must call."""

    hints = _HINTS

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(StrictModel):
    """Tools that the answer may call, and whether it must call one."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


class AllowedToolChoice(StrictModel):
    """Choice of some tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools

    @property
    def names(self) -> list[str]:
        """Names of the functions."""
        return [tool.function.name for tool in self.allowed_tools.tools]


def _parse_tool_choice(value: Any) -> Any:
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return value
    kind = value.get("type") if isinstance(value, dict) else None
    try:
        return (AllowedToolChoice if kind == "allowed_tools" else NamedTool).model_validate(value)
    except ValidationError as error:
        if all(each["type"] == "extra_forbidden" for each in error.errors(include_input=False, include_url=False)):
            raise  # it names the fields
        raise ValueError(
            'must be "none", "auto", "required", {"type": "function", "function": {"name": …}} or '
            '{"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": [{"type": "function", '
            '"function": {"name": …}}]}}'
        ) from None


_Choice = Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice

#: Effort of reasoning, in the words of all model families.
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

#: Choice whether the answer calls a tool, and which one.
ToolChoice = Annotated[_Choice, PlainValidator(_parse_tool_choice, json_schema_input_type=_Choice)]


class Chat(StrictModel):
    """Messages of a chat and the tools that the answer may call."""

    messages: Messages
    tools: list[Tool] = Field(default_factory=list, max_length=128)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    reasoning_effort: ReasoningEffort | None = Field(
        None, description="Effort of reasoning, for chat templates that read it; `none` turns reasoning off."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="More variables of the chat template, such as `enable_thinking`."
    )
    add_generation_prompt: bool | None = Field(
        None, description="Begin a new turn of the assistant. If unset, true unless the last message is continued."
    )
    continue_final_message: bool | None = Field(
        None,
        description=(
            "Continue the last message, which is the assistant's. If unset, true for such a message, unless "
            "`add_generation_prompt` is set."
        ),
    )

    @model_validator(mode="after")
    def _check_tools(self) -> Chat:
        names = self.tool_names
        if twice := next((i for i, name in enumerate(names) if name in names[:i]), None):
            raise make_field_error(f"tools[{twice}].function.name", f"there is another tool {names[twice]}")
        if self.tool_choice == "required" and not names:
            raise make_field_error("tool_choice", "there are no tools to choose from")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise make_field_error("tool_choice", f"there is no tool {self.tool_choice.function.name}")
        if isinstance(self.tool_choice, AllowedToolChoice):
            for name in self.tool_choice.names:
                if name not in names:
                    raise make_field_error("tool_choice", f"there is no tool {name}")
        return self

    @model_validator(mode="after")
    def _check_continuation(self) -> Chat:
        if self.continue_final_message:
            if self.add_generation_prompt:
                raise make_field_error("continue_final_message", "cannot be true if add_generation_prompt is")
            if not self._ends_with_text:
                raise make_field_error("continue_final_message", "the last message is not a text of the assistant")
        return self

    @property
    def _ends_with_text(self) -> bool:
        return self.messages[-1].role == "assistant" and not self.messages[-1].tool_calls

    @property
    def continues_answer(self) -> bool:
        """True if the last message is the beginning of an answer, which the model continues."""
        if self.continue_final_message is None and self.add_generation_prompt is None:
            return self._ends_with_text
        return bool(self.continue_final_message)

    @property
    def begins_turn(self) -> bool:
        """True if the prompt ends with the beginning of a new turn of the assistant."""
        return not self.continues_answer if self.add_generation_prompt is None else self.add_generation_prompt

    @property
    def tool_names(self) -> list[str]:
        """Names of all tools."""
        return [tool.function.name for tool in self.tools]

    @property
    def usable_tools(self) -> list[dict[str, Any]]:
        """Tools that the answer may call, as in the request; the prompt has no others."""
        names = self.callable_names
        return [tool.model_dump(exclude_unset=True) for tool in self.tools if tool.function.name in names]

    @property
    def callable_names(self) -> list[str]:
        """Names of the functions that the answer may call."""
        if self.tool_choice == "none":
            return []
        return self.tool_choice.names if isinstance(self.tool_choice, AllowedToolChoice) else self.tool_names

    @property
    def choice(self) -> Any:
        """`none`, `auto`, `required`, or an object with the name of a function."""
        if not self.tools:
            return "none"
        if isinstance(self.tool_choice, AllowedToolChoice):
            return self.tool_choice.allowed_tools.mode
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

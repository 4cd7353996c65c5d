"""`responses`: https://platform.openai.com/docs/api-reference/responses.

Responses are not stored: a client sends the whole input each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Annotated, Any, ClassVar, Literal
from uuid import uuid4

from pydantic import Field, PlainValidator, model_validator

from hf_runtime.api.openai.responses_input import InputField, add_instructions
from hf_runtime.api.openai.unserved import Unserved
from hf_runtime.api.single_chat import (
    ExtensibleModel,
    SingleChatRequest,
    make_sampling,
    parse_object,
    parse_typed,
)
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.validation import TolerantModel

RESPONSES_PATHS = ("/openai/v1/responses", "/v1/responses")

_LOGPROBS = "message.output_text.logprobs"

#: What `include` may name; all but the log probabilities are of tools that are not offered, or change nothing.
_Include = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class FunctionTool(ExtensibleModel):
    """A function that the answer may call. `parameters` is the JSON schema of its arguments."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = True


class ChosenFunction(ExtensibleModel):
    """A function that the answer must call."""

    type: Literal["function"]
    name: str


class AllowedFunctions(ExtensibleModel):
    """Some of the tools, one of which the answer may or must call."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ChosenFunction] = Field(min_length=1)


class TextFormat(TolerantModel):
    """Free text."""

    type: Literal["text"]


class JsonObjectFormat(TolerantModel):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(TolerantModel):
    """JSON of a schema."""

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool = True


class ReasoningConfig(TolerantModel):
    """Options of the reasoning.

    All but the effort change nothing, because the reasoning itself is returned.
    """

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class ResponseStreamOptions(TolerantModel):
    """Options of a stream; they change nothing."""

    include_obfuscation: bool = False


_Format = TextFormat | JsonObjectFormat | JsonSchemaFormat
_FORMATS: Mapping[str, type[TolerantModel]] = {
    "text": TextFormat, "json_object": JsonObjectFormat, "json_schema": JsonSchemaFormat,
}  # fmt: skip
_CHOICES: Mapping[str, type[TolerantModel]] = {"function": ChosenFunction, "allowed_tools": AllowedFunctions}


class TextConfig(TolerantModel):
    """Format of the text; the verbosity is a hint that changes nothing."""

    format: Annotated[
        Any, PlainValidator(lambda value: parse_typed(_FORMATS, value, "text.format"), json_schema_input_type=_Format)
    ] = TextFormat(type="text")
    verbosity: Literal["low", "medium", "high"] = "medium"


def _parse_tools(value: Any) -> list[FunctionTool]:
    if not isinstance(value, list):
        raise ValueError("must be a list of functions")
    return [_parse_tool(tool, f"tools[{index}]") for index, tool in enumerate(value)]


def _parse_tool(value: Any, path: str) -> FunctionTool:
    name = value.get("type") if isinstance(value, dict) else None
    if isinstance(name, str) and name != "function":
        raise InvalidRequest(f"{name:.60} is not offered, only functions are", field=f"{path}.type")
    return parse_object(FunctionTool, value, path)


def _parse_choice(value: Any) -> Any:
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return value
    if not isinstance(value, dict):
        raise ValueError('must be "none", "auto", "required", a function or allowed_tools')
    return parse_typed(_CHOICES, value, "tool_choice")


_Choice = Literal["none", "auto", "required"] | ChosenFunction | AllowedFunctions


class ResponseRequest(SingleChatRequest):
    """An input to answer; without a maximum, the answer may fill the model's context."""

    ignored: ClassVar[frozenset[str]] = frozenset({"max_tool_calls", "prompt_cache_options", "prompt_cache_retention"})
    not_offered: ClassVar[Mapping[str, Unserved]] = {
        "access_programs": Unserved("there are no programs"),
        "background_options": Unserved("there are no responses in the background"),
        "context_management": Unserved("the input is not compacted"),
        "conversation": Unserved("responses are not stored; send the whole input"),
        "image": Unserved("answers are text only"),
        "moderation": Unserved("nothing is moderated here"),
        "previous_response_id": Unserved("responses are not stored; send the whole input"),
        "prompt": Unserved("there are no prompt templates"),
    }
    chat_fields: ClassVar[Mapping[str, str]] = {
        "parameters.response_format.json_schema": "text.format",
        "parameters.response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
    }

    input: InputField
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    tools: Annotated[list[FunctionTool], PlainValidator(_parse_tools, json_schema_input_type=list[FunctionTool])] = (
        Field(default_factory=list)
    )
    tool_choice: Annotated[Any, PlainValidator(_parse_choice, json_schema_input_type=_Choice)] = "auto"
    parallel_tool_calls: bool = True
    text: TextConfig = Field(default_factory=TextConfig)
    reasoning: ReasoningConfig = Field(default_factory=ReasoningConfig)
    include: list[_Include] = Field(default_factory=list)
    top_logprobs: int = Field(0, ge=0, le=20)
    truncation: Literal["auto", "disabled"] | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool = False
    background: bool = False
    metadata: dict[str, str] = Field(default_factory=dict)
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None

    @model_validator(mode="after")
    def _check_fields(self) -> ResponseRequest:
        if self.store:
            raise InvalidRequest("must be false, responses are not stored", field="store")
        if self.background:
            raise InvalidRequest("must be false, there are no responses in the background", field="background")
        names = [tool.name for tool in self.tools]
        if self.tool_choice == "required" and not names:
            raise InvalidRequest("there are no tools to choose from", field="tool_choice")
        for function in self._list_chosen():
            if function.name not in names:
                known = f", but {', '.join(names)}" if names else ""
                raise InvalidRequest(f"there is no tool {function.name:.100}{known}", field="tool_choice")
        return self

    def _list_chosen(self) -> list[ChosenFunction]:
        if isinstance(self.tool_choice, ChosenFunction):
            return [self.tool_choice]
        return self.tool_choice.tools if isinstance(self.tool_choice, AllowedFunctions) else []

    @property
    def shows_logprobs(self) -> bool:
        """True if the answer has the log probabilities of its tokens."""
        return _LOGPROBS in self.include or self.top_logprobs > 0

    @property
    def field_names(self) -> Mapping[str, str]:
        return {
            "max_new_tokens": "max_output_tokens",
            "fill_context": "max_output_tokens",
            "do_sample": "temperature",
            "logprobs": "top_logprobs",
            "response_format": "text.format",
        }

    def locate(self, index: int) -> str:
        return "input"

    @property
    def _usable_tools(self) -> list[int]:
        """Indexes of the tools that the answer may call."""
        allowed = self.tool_choice
        if not isinstance(allowed, AllowedFunctions):
            return list(range(len(self.tools)))
        names = {tool.name for tool in allowed.tools}
        return [index for index, tool in enumerate(self.tools) if tool.name in names]

    def find_tool(self, number: int) -> int:
        return dict(enumerate(self._usable_tools)).get(number, number)

    def make_chat(self) -> dict[str, Any]:
        chat: dict[str, Any] = {"messages": add_instructions(self.instructions, self.input)}
        if self.tools:
            chat["tools"] = [_make_tool(self.tools[index]) for index in self._usable_tools]
            choice = self.tool_choice
            if isinstance(choice, ChosenFunction):
                choice = {"type": "function", "function": {"name": choice.name}}
            chat["tool_choice"] = choice.mode if isinstance(choice, AllowedFunctions) else choice
            chat["parallel_tool_calls"] = self.parallel_tool_calls
        if self.reasoning.effort is not None:
            chat["reasoning_effort"] = self.reasoning.effort
        return chat

    def make_parameters(self) -> dict[str, Any]:
        parameters = {
            "details": True, "return_full_text": False, **make_sampling(self.temperature, self.top_p)
        }  # fmt: skip
        maximum = self.max_output_tokens
        parameters |= {"fill_context": True} if maximum is None else {"max_new_tokens": maximum}
        if self.shows_logprobs:
            parameters["logprobs"] = self.top_logprobs
        if self.truncation is not None:
            parameters["truncation"] = self.truncation == "auto"
        match self.text.format:
            case JsonObjectFormat():
                parameters["response_format"] = {"type": "json_object"}
            case JsonSchemaFormat() as form:
                schema = {**form.model_dump(by_alias=True, exclude_none=True, exclude={"type"}), "schema": form.schema_}
                parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
        return parameters

    def make_response(self) -> dict[str, Any]:
        """Return the response object before its first token, with the request's fields."""
        return {
            "id": f"resp_{uuid4().hex}",
            "object": "response",
            "created_at": int(time()),
            "status": "in_progress",
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": None,
            "metadata": self.metadata,
            "model": self.model,
            "output": [],
            "parallel_tool_calls": self.parallel_tool_calls,
            "previous_response_id": None,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": self.reasoning.effort, "summary": self.reasoning.summary},
            "safety_identifier": self.safety_identifier,
            "service_tier": "default",
            "store": False,
            "temperature": self.temperature,
            "text": {"format": self._echo_format(), "verbosity": self.text.verbosity},
            "tool_choice": self.tool_choice if isinstance(self.tool_choice, str) else self.tool_choice.model_dump(),
            "tools": [tool.model_dump() for tool in self.tools],
            "top_logprobs": self.top_logprobs,
            "top_p": self.top_p,
            "truncation": self.truncation or "disabled",
            "usage": None,
            "user": self.user,
        }

    def _echo_format(self) -> dict[str, Any]:
        form: TolerantModel = self.text.format
        return form.model_dump(by_alias=True)


def _make_tool(tool: FunctionTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "strict": tool.strict}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}

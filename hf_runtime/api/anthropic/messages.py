"""Requests of `messages` and `messages/count_tokens`.

Source: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, model_validator

from hf_runtime.api.anthropic.content import MessagesField, SystemField
from hf_runtime.api.openai.unserved import Unserved
from hf_runtime.api.single_chat import ExtensibleModel, SingleChatRequest, make_sampling, parse_object
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.validation import TolerantModel

MESSAGES_PATHS = ("/v1/messages", "/openai/v1/messages", "/anthropic/v1/messages")
COUNT_TOKENS_PATHS = tuple(f"{path}/count_tokens" for path in MESSAGES_PATHS)


class AnthropicTool(ExtensibleModel):
    """A tool that the client runs. `input_schema` is the JSON schema of its input."""

    type: Literal["custom"] = "custom"
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class AnthropicToolChoice(TolerantModel):
    """Choice whether the answer calls a tool, and which one."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingConfig(TolerantModel):
    """Choice whether the model thinks; the budget and the display change nothing."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: str | None = None


class AnthropicJsonFormat(TolerantModel):
    """JSON of a schema."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(TolerantModel):
    """Format of the answer, and the effort of the thinking."""

    effort: str | None = None
    format: AnthropicJsonFormat | None = None


def _parse_tools(value: Any) -> list[AnthropicTool]:
    if not isinstance(value, list):
        raise ValueError("must be a list of tools")
    return [_parse_tool(tool, f"tools[{index}]") for index, tool in enumerate(value)]


def _parse_tool(value: Any, path: str) -> AnthropicTool:
    name = value.get("type") if isinstance(value, dict) else None
    if isinstance(name, str) and name != "custom":
        raise InvalidRequest(f"{name:.60} is not offered, only tools with an input_schema are", field=f"{path}.type")
    return parse_object(AnthropicTool, value, path)


_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class PromptRequest(SingleChatRequest):
    """Fields that make the prompt of a message."""

    ignored: ClassVar[frozenset[str]] = frozenset(
        {
            "betas",
            "cache_control",
            "diagnostics",
            "inference_geo",
            "metadata",
            "service_tier",
            "speed",
            "user_profile_id",
            "workspace_id",
        }
    )
    not_offered: ClassVar[Mapping[str, Unserved]] = {
        "container": Unserved("there are no containers"),
        "context_management": Unserved("the messages are not compacted"),
        "mcp_servers": Unserved("the server calls no tools"),
    }
    chat_fields: ClassVar[Mapping[str, str]] = {
        "parameters.response_format.json_schema": "output_config.format",
        "parameters.response_format": "output_config.format",
        "reasoning_effort": "output_config.effort",
        "chat_template_kwargs": "thinking",
    }

    messages: MessagesField
    system: SystemField = None
    tools: Annotated[list[AnthropicTool], PlainValidator(_parse_tools, json_schema_input_type=list[AnthropicTool])] = (
        Field(default_factory=list)
    )
    tool_choice: AnthropicToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None

    @model_validator(mode="after")
    def _check_choice(self) -> PromptRequest:
        choice, names = self.tool_choice, [tool.name for tool in self.tools]
        if choice is not None and choice.type in ("any", "tool") and not names:
            raise InvalidRequest("there are no tools to choose from", field="tool_choice")
        if choice is not None and choice.type == "tool" and choice.name not in names:
            if choice.name is None:
                raise InvalidRequest("field required", field="tool_choice.name")
            reason = f"there is no tool {choice.name:.100}, but {', '.join(names)}"
            raise InvalidRequest(reason, field="tool_choice.name")
        return self

    def locate(self, index: int) -> str:
        return "messages"

    @property
    def field_names(self) -> Mapping[str, str]:
        return {
            "max_new_tokens": "max_tokens",
            "do_sample": "temperature",
            "stop": "stop_sequences",
            "response_format": "output_config.format",
        }

    def translate_tool_field(self, field: str) -> str:
        return field.replace(".parameters", ".input_schema", 1)

    def make_chat(self) -> dict[str, Any]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        chat: dict[str, Any] = {"messages": [*system, *self.messages]}
        if self.tools:
            chat["tools"] = [_make_tool(tool) for tool in self.tools]
        if self.tools and self.tool_choice is not None:
            choice = self.tool_choice
            named = {"type": "function", "function": {"name": choice.name}}
            chat["tool_choice"] = _CHOICES.get(choice.type, named)
            chat["parallel_tool_calls"] = not choice.disable_parallel_tool_use
        if self.thinking is not None:
            chat["chat_template_kwargs"] = {"enable_thinking": self.thinking.type != "disabled"}
        if self.output_config is not None and self.output_config.effort is not None:
            chat["reasoning_effort"] = self.output_config.effort
        return chat


class MessagesRequest(PromptRequest):
    """A chat to answer with at most `max_tokens` tokens."""

    max_tokens: int = Field(ge=1)
    top_k: int = Field(0, ge=0)
    stop_sequences: list[str] = Field(default_factory=list)

    def make_parameters(self) -> dict[str, Any]:
        parameters = {
            "details": True,
            "return_full_text": False,
            **make_sampling(self.temperature, self.top_p, self.top_k),
            "max_new_tokens": self.max_tokens,
        }
        if self.stop_sequences:
            parameters["stop"] = self.stop_sequences
        if self.output_config is not None and self.output_config.format is not None:
            schema = {"name": "answer", "schema": self.output_config.format.schema_, "strict": True}
            parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
        return parameters


class CountTokensRequest(PromptRequest):
    """A chat whose prompt to count."""

    ignored: ClassVar[frozenset[str]] = PromptRequest.ignored | {"max_tokens", "stop_sequences", "top_k"}


def _make_tool(tool: AnthropicTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}

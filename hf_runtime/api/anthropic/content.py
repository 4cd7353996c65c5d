"""Messages of the Messages API: content blocks become the turns of a chat.

Source: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import PlainValidator

from hf_runtime.api.single_chat import ExtensibleModel, parse_object, parse_typed
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.validation import TolerantModel

Turn = dict[str, Any]


class TextBlock(ExtensibleModel):
    """Text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(ExtensibleModel):
    """Thinking of an earlier answer."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(ExtensibleModel):
    """Thinking that only Anthropic can read; it is left out."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(ExtensibleModel):
    """A tool that an earlier answer called."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(ExtensibleModel):
    """The result of a called tool."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] = ""


class AnthropicMessage(ExtensibleModel):
    """A message; the one of an earlier answer is accepted unchanged."""

    role: Literal["user", "assistant", "system"]
    content: str | list[TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock]


class _Message(ExtensibleModel):
    """A message whose blocks are parsed later, so that an error names the block."""

    role: Literal["user", "assistant", "system"]
    content: Any


class _ToolResult(ExtensibleModel):
    """A result whose blocks are parsed later."""

    tool_use_id: str
    content: Any = ""


_TEXTS: Mapping[str, type[TolerantModel]] = {"text": TextBlock}
_BLOCKS: Mapping[str, Mapping[str, type[TolerantModel]]] = {
    "system": _TEXTS,
    "user": {**_TEXTS, "tool_result": _ToolResult},
    "assistant": {
        **_TEXTS,
        "tool_use": ToolUseBlock,
        "thinking": ThinkingBlock,
        "redacted_thinking": RedactedThinkingBlock,
    },
}


def _parse_messages(value: Any) -> list[Turn]:
    """Return the turns of messages.

    Raises:
        InvalidRequest: a message is wrong; the error has the path of its field.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of at least one message")
    turns: list[Turn] = []
    for index, given in enumerate(value):
        path = f"messages[{index}]"
        message = parse_object(_Message, given, path)
        path += ".content"
        if isinstance(message.content, str):
            turns.append({"role": message.role, "content": message.content})
        elif not isinstance(message.content, list):
            raise InvalidRequest("must be a string or a list of blocks", field=path)
        else:
            kinds = _BLOCKS[message.role]
            blocks = [parse_typed(kinds, block, f"{path}[{i}]") for i, block in enumerate(message.content)]
            if message.role == "assistant":
                turns.append(_make_answer(blocks))
            else:
                turns += _make_turns(message.role, blocks, path)
    return turns


def _make_answer(blocks: list[TolerantModel]) -> Turn:
    """Return the turn of an earlier answer."""
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    thinking = "\n".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    calls = [
        {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}
        for block in blocks
        if isinstance(block, ToolUseBlock)
    ]
    turn: Turn = {"role": "assistant"}
    if texts or not calls:
        turn["content"] = "\n".join(texts)
    if thinking:
        turn["reasoning_content"] = thinking
    return turn | ({"tool_calls": calls} if calls else {})


def _make_turns(role: str, blocks: list[TolerantModel], path: str) -> list[Turn]:
    """Return the turns of a message: one for each result, and for the text between two."""
    turns: list[Turn] = []
    for index, block in enumerate(blocks):
        if isinstance(block, _ToolResult):
            content = join_text(block.content, f"{path}[{index}].content")
            turns.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": content})
            continue
        assert isinstance(block, TextBlock), "this is a bug: such a message has no other blocks"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n{block.text}"
        else:
            turns.append({"role": role, "content": block.text})
    return turns or [{"role": role, "content": ""}]


def join_text(content: Any, path: str) -> str:
    """Return a string, or the text of blocks, as one string.

    Raises:
        InvalidRequest: it is neither, or has a block that is not text.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest("must be a string or a list of blocks", field=path)
    blocks = [parse_typed(_TEXTS, block, f"{path}[{index}]") for index, block in enumerate(content)]
    return "\n".join(block.text for block in blocks if isinstance(block, TextBlock))


#: The messages of a chat, as turns.
MessagesField = Annotated[list[Turn], PlainValidator(_parse_messages, json_schema_input_type=list[AnthropicMessage])]

#: The system prompt.
SystemField = Annotated[
    str | None,
    PlainValidator(lambda value: join_text(value, "system"), json_schema_input_type=str | list[TextBlock] | None),
]

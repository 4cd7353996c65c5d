"""Input of `responses`: items become the turns of a chat.

Source: https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import PlainValidator

from hf_runtime.api.single_chat import ExtensibleModel, parse_typed
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.validation import TolerantModel

Turn = dict[str, Any]


class InputText(ExtensibleModel):
    """Text of a message, the client's or the model's."""

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str


class InputRefusal(ExtensibleModel):
    """Refusal of an earlier answer."""

    type: Literal["refusal"]
    refusal: str


class InputMessage(ExtensibleModel):
    """A message; an earlier answer is accepted unchanged."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | InputRefusal]


class InputFunctionCall(ExtensibleModel):
    """A function that an earlier answer called, with its arguments as JSON."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class InputFunctionResult(ExtensibleModel):
    """The result of a called function."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputText]


class InputReasoning(ExtensibleModel):
    """The reasoning of an earlier answer."""

    type: Literal["reasoning"]
    content: list[InputText] | None = None


#: An item, as the OpenAPI document describes it.
InputItem = InputMessage | InputFunctionCall | InputFunctionResult | InputReasoning


class _Loose(ExtensibleModel):
    """An object whose content is parsed later, so that an error names the part of it."""

    content: Any = None
    output: Any = None


class _Message(_Loose):
    role: Literal["user", "assistant", "system", "developer"]


class _Result(_Loose):
    call_id: str


_ITEMS: Mapping[str, type[TolerantModel]] = {
    "message": _Message,
    "function_call": InputFunctionCall,
    "function_call_output": _Result,
    "reasoning": _Loose,
}
_TEXTS: Mapping[str, type[TolerantModel]] = {
    "input_text": InputText,
    "output_text": InputText,
    "text": InputText,
    "refusal": InputRefusal,
}
_REASONING: Mapping[str, type[TolerantModel]] = {"reasoning_text": InputText, "text": InputText}


def parse_input(value: Any) -> list[Turn]:
    """Return the turns of a text, or of a list of items.

    Raises:
        InvalidRequest: an item is wrong; the error has its path.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of items")
    turns: list[Turn] = []
    reasoning = ""
    for index, given in enumerate(value):
        path = f"input[{index}]"
        if isinstance(given, dict) and given.get("type") == "item_reference":
            raise InvalidRequest("not supported, items are not stored; send the item itself", field=f"{path}.type")
        item = parse_typed(
            _ITEMS, given, path, default="message" if isinstance(given, dict) and "role" in given else None
        )
        match item:
            case _Message():
                turn: Turn = {"role": item.role, "content": _join_text(item.content, f"{path}.content")}
                if item.role == "assistant":
                    turn |= _make_reasoning(reasoning)
                turns.append(turn)
                reasoning = ""
            case InputFunctionCall():
                _add_call(turns, item, reasoning)
                reasoning = ""
            case _Result():
                content = _join_text(item.output, f"{path}.output")
                turns.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
                reasoning = ""
            case _Loose():
                reasoning += "\n".join(_parse_texts(_REASONING, item.content or [], f"{path}.content"))
    if not turns:
        raise ValueError("must have a message, or the result of a function")
    return turns


def _add_call(turns: list[Turn], item: InputFunctionCall, reasoning: str) -> None:
    call = {
        "id": item.call_id,
        "type": "function",
        "function": {"name": item.name, "arguments": item.arguments or "{}"},
    }
    # The calls of one answer are items of their own, and the message before them belongs to the same turn.
    if reasoning or not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", **_make_reasoning(reasoning)})
    turns[-1].setdefault("tool_calls", []).append(call)


def _make_reasoning(reasoning: str) -> Turn:
    return {"reasoning_content": reasoning} if reasoning else {}


def _join_text(content: Any, path: str) -> str:
    if content is None:
        raise InvalidRequest("field required", field=path)
    return content if isinstance(content, str) else "\n".join(_parse_texts(_TEXTS, content, path))


def _parse_texts(kinds: Mapping[str, type[TolerantModel]], parts: Any, path: str) -> Iterator[str]:
    if not isinstance(parts, list):
        raise InvalidRequest("must be a string or a list of parts", field=path)
    for index, given in enumerate(parts):
        part = parse_typed(kinds, given, f"{path}[{index}]")
        yield part.refusal if isinstance(part, InputRefusal) else part.text  # type: ignore[attr-defined]


def add_instructions(instructions: str | None, turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns after a system turn with the instructions.

    The input's own system turns at the start are joined with it, because many templates take only one.
    """
    count = next((i for i, turn in enumerate(turns) if turn["role"] not in ("system", "developer")), len(turns))
    if instructions is None or not count:
        return [*([{"role": "system", "content": instructions}] if instructions is not None else []), *turns]
    texts = [instructions, *(turn["content"] for turn in turns[:count])]
    return [{"role": "system", "content": "\n\n".join(texts)}, *turns[count:]]


#: A field that holds a text or a list of items.
InputField = Annotated[list[Turn], PlainValidator(parse_input, json_schema_input_type=str | list[InputItem])]

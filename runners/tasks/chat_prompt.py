"""The prompt of a chat: what the model's chat template makes of it, tools included."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.chat import Chat, Message
from hf_runtime.contract.errors import InvalidRequest

Turn = dict[str, Any]

#: What a template may raise at turns that it was not written for.
_REFUSALS = (TemplateError, ValueError, TypeError)

#: A stand-in where earlier answers called tools, and the next may not.
_ANY_TOOL = {"type": "function", "function": {"name": "f", "description": "f", "parameters": {"type": "object"}}}

#: The words of Qwen's and Hermes' templates, https://huggingface.co/Qwen/Qwen2.5-7B-Instruct.
_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> list[int]:
    """The prompt that asks for the next turn, or begins with the beginning of it.

    A template that knows no tools is told of them in a system message.

    Raises:
        InvalidRequest: the model has no chat template, or its template does not accept the messages.
    """
    if not tokenizer.chat_template:
        raise InvalidRequest("the model has no chat template; send a string as the prompt", field="messages")
    tools: list[Any] = chat.usable_tools
    try:
        template = tokenizer.get_chat_template(tools=tools or None)
        turns = _turns(chat.messages, template)
        if (tools or any("tool_calls" in turn or turn["role"] == "tool" for turn in turns)) and not _knows_tools(
            tokenizer, template, tools or [_ANY_TOOL]
        ):
            turns, tools = _without_tools(turns, tools), []
        encoding: Any = tokenizer.apply_chat_template(
            turns,
            tools=tools or None,
            add_generation_prompt=not chat.is_begun,
            continue_final_message=chat.is_begun,
            return_dict=True,
            tokenizer_kwargs={"verbose": False},
        )
    except _REFUSALS as error:
        raise InvalidRequest(f"the model's chat template does not accept them: {error}", field="messages") from None
    input_ids: list[int] = encoding["input_ids"]
    if not input_ids:
        raise InvalidRequest("the model's chat template makes an empty prompt of them", field="messages")
    return input_ids


def _turns(messages: Sequence[Message], template: str) -> list[Turn]:
    """Messages in the form that templates expect."""
    called: dict[str, str] = {}
    turns = []
    for message in messages:
        # Templates join texts, and most fail at one that is none.
        turn: Turn = {**message.turn(), "content": message.text or ""}
        if turn["role"] == "developer" and "developer" not in template:
            turn["role"] = "system"
        if not turn.get("tool_calls"):
            turn.pop("tool_calls", None)
        for call in turn.get("tool_calls", ()):
            if "id" in call:
                called[call["id"]] = call["function"]["name"]
                call["id"] = _told_id(call["id"], template)
        if "tool_call_id" in turn:
            if turn["tool_call_id"] in called:
                turn.setdefault("name", called[turn["tool_call_id"]])
            turn["tool_call_id"] = _told_id(turn["tool_call_id"], template)
        turns.append(turn)
    return turns


def _told_id(call_id: str, template: str) -> str:
    """Mistral's templates refuse the ids of calls unless they have nine letters or digits."""
    if "length 9" not in template or (len(call_id) == 9 and call_id.isalnum()):
        return call_id
    return blake2b(call_id.encode("utf-8", "replace")).hexdigest()[:9]


def _knows_tools(tokenizer: PreTrainedTokenizerBase, template: str, tools: list[Any]) -> bool:
    probe = [{"role": "user", "content": "Hi"}]
    try:
        told = tokenizer.apply_chat_template(probe, tools=tools, tokenize=False, add_generation_prompt=True)
        return bool(told != tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True))
    except _REFUSALS:
        return "tools" in template


def _without_tools(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """The same chat in turns of text alone."""
    told: list[Turn] = []
    for turn in turns:
        if turn["role"] == "tool":
            content = f"<tool_response>\n{turn['content']}\n</tool_response>"
            if told and told[-1].get("responds"):
                told[-1]["content"] += f"\n{content}"
            else:
                told.append({"role": "user", "content": content, "responds": True})
            continue
        calls = [_dumps(call["function"]) for call in turn.get("tool_calls", ())]
        parts = [turn["content"], *(f"<tool_call>\n{call}\n</tool_call>" for call in calls)]
        told.append({"role": turn["role"], "content": "\n".join(part for part in parts if part)})
    for turn in told:
        turn.pop("responds", None)
    if tools:
        system = _TOOLS.format(tools="\n".join(_dumps(tool) for tool in tools))
        if told[0]["role"] in ("system", "developer"):
            told[0]["content"] += f"\n\n{system}"
        else:
            told.insert(0, {"role": "system", "content": system})
    return told


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

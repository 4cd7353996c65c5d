"""Prompt of a chat, rendered by the model's chat template, with its tools."""

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

#: Errors that a template may raise for turns that it does not support.
_TEMPLATE_ERRORS = (TemplateError, ValueError, TypeError)

#: Placeholder for a chat with earlier tool calls, whose next answer must not call tools.
_DUMMY_TOOL = {"type": "function", "function": {"name": "f", "description": "f", "parameters": {"type": "object"}}}

#: Tool prompt of the templates of Qwen and Hermes, https://huggingface.co/Qwen/Qwen2.5-7B-Instruct.
_TOOL_PROMPT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def tokenize_chat(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> list[int]:
    """Return the tokens of the prompt for the next turn, or for the rest of a begun turn.

    If the template does not support tools, a system message describes them.

    Raises:
        InvalidRequest: the model has no chat template, or its template does not accept the messages.
    """
    if not tokenizer.chat_template:
        raise InvalidRequest("the model has no chat template; send a string as the prompt", field="messages")
    tools: list[Any] = chat.usable_tools
    try:
        template = tokenizer.get_chat_template(tools=tools or None)
        turns = _build_turns(chat.messages, template)
        if (tools or any("tool_calls" in turn or turn["role"] == "tool" for turn in turns)) and not _supports_tools(
            tokenizer, template, tools or [_DUMMY_TOOL]
        ):
            turns, tools = _move_tools_into_text(turns, tools), []
        encoding: Any = tokenizer.apply_chat_template(
            turns,
            tools=tools or None,
            add_generation_prompt=not chat.continues_answer,
            continue_final_message=chat.continues_answer,
            return_dict=True,
            tokenizer_kwargs={"verbose": False},
        )
    except _TEMPLATE_ERRORS as error:
        raise InvalidRequest(f"the model's chat template does not accept them: {error}", field="messages") from None
    input_ids: list[int] = encoding["input_ids"]
    if not input_ids:
        raise InvalidRequest("the model's chat template makes an empty prompt of them", field="messages")
    return input_ids


def _build_turns(messages: Sequence[Message], template: str) -> list[Turn]:
    """Convert messages to the format that templates expect."""
    functions: dict[str, str] = {}  # names by call id
    turns = []
    for message in messages:
        # Templates concatenate the contents, and most fail if one is None.
        turn: Turn = {**message.turn(), "content": message.text or ""}
        if turn["role"] == "developer" and "developer" not in template:
            turn["role"] = "system"
        if not turn.get("tool_calls"):
            turn.pop("tool_calls", None)
        for call in turn.get("tool_calls", ()):
            if "id" in call:
                functions[call["id"]] = call["function"]["name"]
                call["id"] = _shorten_id(call["id"], template)
        if "tool_call_id" in turn:
            if turn["tool_call_id"] in functions:
                turn.setdefault("name", functions[turn["tool_call_id"]])
            turn["tool_call_id"] = _shorten_id(turn["tool_call_id"], template)
        turns.append(turn)
    return turns


def _shorten_id(call_id: str, template: str) -> str:
    """Return a call id that the template accepts.

    Mistral's templates require nine letters or digits.
    """
    if "length 9" not in template or (len(call_id) == 9 and call_id.isalnum()):
        return call_id
    return blake2b(call_id.encode("utf-8", "replace")).hexdigest()[:9]


def _supports_tools(tokenizer: PreTrainedTokenizerBase, template: str, tools: list[Any]) -> bool:
    """Return true if the template's output changes with the tools."""
    probe = [{"role": "user", "content": "Hi"}]
    try:
        with_tools = tokenizer.apply_chat_template(probe, tools=tools, tokenize=False, add_generation_prompt=True)
        return bool(with_tools != tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True))
    except _TEMPLATE_ERRORS:
        return "tools" in template


def _move_tools_into_text(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Rewrite a chat so that tools, calls and their results are text."""
    rewritten: list[Turn] = []
    for turn in turns:
        if turn["role"] == "tool":
            content = f"<tool_response>\n{turn['content']}\n</tool_response>"
            if rewritten and rewritten[-1].get("responds"):
                rewritten[-1]["content"] += f"\n{content}"
            else:
                rewritten.append({"role": "user", "content": content, "responds": True})
            continue
        calls = [_dumps(call["function"]) for call in turn.get("tool_calls", ())]
        parts = [turn["content"], *(f"<tool_call>\n{call}\n</tool_call>" for call in calls)]
        rewritten.append({"role": turn["role"], "content": "\n".join(part for part in parts if part)})
    for turn in rewritten:
        turn.pop("responds", None)
    if tools:
        system = _TOOL_PROMPT.format(tools="\n".join(_dumps(tool) for tool in tools))
        if rewritten[0]["role"] in ("system", "developer"):
            rewritten[0]["content"] += f"\n\n{system}"
        else:
            rewritten.insert(0, {"role": "system", "content": system})
    return rewritten


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

"""Prompt of a chat, rendered by the model's chat template, with its tools."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from inspect import signature
from itertools import count
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.chat import Chat, Message
from hf_runtime.contract.errors import InvalidRequest

Turn = dict[str, Any]

#: Errors that a template may raise for turns or variables that it does not support.
TEMPLATE_ERRORS = (TemplateError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)

#: Placeholder for a chat with earlier tool calls, whose next answer must not call tools.
_DUMMY_TOOL = {"type": "function", "function": {"name": "f", "description": "f", "parameters": {"type": "object"}}}

#: Variables that switch reasoning on in templates that do not read `reasoning_effort`.
_SWITCHES = ("enable_thinking", "thinking")

#: Names that templates have for the reasoning of an earlier answer.
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")

#: Uses of an earlier answer's reasoning by the name that gpt-oss's template has for it.
_THINKING_FIELD = re.compile(r"""message\.thinking|message\[['"]thinking|['"]thinking['"] in message""")

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


#: Variables of a template that the server sets, and arguments of the function that renders it.
_OWN_VARIABLES = (signature(PreTrainedTokenizerBase.apply_chat_template).parameters.keys() | {"messages"}) - {
    "documents",
    "kwargs",
}

#: Text between tools and the system's own words.
_BREAK = "\n\n"


def tokenize_chat(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> list[int]:
    """Return the tokens of the prompt for the next turn, or for the rest of a begun turn.

    If the template does not support tools, a system message describes them. A template that does not accept the turns
    gets them in another form: the system's words in the first user turn, arguments of calls as JSON.

    Raises:
        InvalidRequest: the model has no chat template, or its template does not accept the messages.
    """
    if not tokenizer.chat_template:
        raise InvalidRequest("the model has no chat template; send a string as the prompt", field="messages")
    tools: list[Any] = chat.usable_tools
    try:
        template = tokenizer.get_chat_template(tools=tools or None)
        turns = _build_turns(chat.messages, template)
        moved = (tools or any("tool_calls" in turn or turn["role"] == "tool" for turn in turns)) and not supports_tools(
            tokenizer, template, tools or [_DUMMY_TOOL]
        )
        if moved:
            turns, tools = _move_tools_into_text(turns, tools), []
        options = {**_make_variables(chat, template), "tools": tools or None}
        options |= {"add_generation_prompt": chat.begins_turn, "continue_final_message": chat.continues_answer}
        render = partial(tokenizer.apply_chat_template, return_dict=True, tokenizer_kwargs={"verbose": False})
        if moved or any(turn.get("tool_calls") for turn in turns):
            turns = _choose_form(turns, partial(tokenizer.apply_chat_template, tokenize=False, **options), moved)
            encoding: Any = render(turns, **options)
        else:
            encoding = _render_first(turns, partial(render, **options))
    except TEMPLATE_ERRORS as error:
        raise InvalidRequest(f"the model's chat template does not accept them: {error}", field="messages") from None
    input_ids: list[int] = encoding["input_ids"]
    if not input_ids:
        raise InvalidRequest("the model's chat template makes an empty prompt of them", field="messages")
    return input_ids


def _make_variables(chat: Chat, template: str) -> dict[str, Any]:
    """Return the template's variables that the client sets.

    Raises:
        InvalidRequest: a variable is one that the server sets.
    """
    variables = dict(chat.chat_template_kwargs or {})
    for name in variables:
        if name in _OWN_VARIABLES:
            raise InvalidRequest("is set by the server", field=f"chat_template_kwargs.{name}")
    effort = chat.reasoning_effort
    if effort is not None:
        variables.setdefault("reasoning_effort", effort)
        if effort == "none":
            variables |= {name: False for name in _SWITCHES if name in template and name not in variables}
    return variables


def _render_first(turns: list[Turn], render: Callable[[list[Turn]], Any]) -> Any:
    """Render turns in the first form that the template accepts."""
    failed: Exception | None = None
    for form in _forms(turns):
        try:
            return render(form)
        except TEMPLATE_ERRORS as error:
            failed = failed or error
    assert failed is not None, "this is a bug: turns have at least one form"
    raise failed


def _choose_form(turns: list[Turn], render: Callable[[list[Turn]], Any], moved: bool) -> list[Turn]:
    """Return the turns in the first form whose text is right.

    A template may accept arguments as an object and write them in Python's form, or accept a system message and
    leave it out.

    Args:
        moved: the system message describes the tools.
    """
    failed: Exception | None = None
    second: list[Turn] | None = None
    for form in _forms(turns):
        try:
            text = str(render(form))
        except TEMPLATE_ERRORS as error:
            failed = failed or error
            continue
        if not any(written in text for written in _python_forms(form)) and (not moved or _has_system(form, text)):
            return form
        second = second or form
    if second is not None:
        return second
    assert failed is not None, "this is a bug: turns have at least one form"
    raise failed


def _forms(turns: list[Turn]) -> Iterator[list[Turn]]:
    """Yield turns as they are, and in the other forms that templates accept."""
    yield turns
    has_calls = any(turn.get("tool_calls") for turn in turns)
    with_json = [_with_json_arguments(turn) for turn in turns]
    if has_calls:
        yield with_json
    if turns[0]["role"] in ("system", "developer"):
        yield _move_system_into_user(turns)
        if has_calls:
            yield _move_system_into_user(with_json)


def _with_json_arguments(turn: Turn) -> Turn:
    if not turn.get("tool_calls"):
        return turn
    calls = [
        {**call, "function": {**call["function"], "arguments": _dumps(call["function"]["arguments"])}}
        for call in turn["tool_calls"]
    ]
    return {**turn, "tool_calls": calls}


def _move_system_into_user(turns: list[Turn]) -> list[Turn]:
    """Put the system's words at the beginning of the first user turn."""
    system, rest = turns[0], turns[1:]
    if rest and rest[0]["role"] == "user":
        content = _BREAK.join(text for text in (system["content"], rest[0]["content"]) if text)
        return [{**rest[0], "content": content}, *rest[1:]]
    return [{**system, "role": "user"}, *rest]


def _python_forms(turns: list[Turn]) -> Iterator[str]:
    """Yield arguments as Python would write them, where JSON differs."""
    for turn in turns:
        for call in turn.get("tool_calls") or ():
            arguments = call["function"]["arguments"]
            if isinstance(arguments, Mapping) and str(arguments) != _dumps(arguments):
                yield str(arguments)


def _has_system(turns: list[Turn], text: str) -> bool:
    """Return true unless a system message at the beginning is left out of the text."""
    return turns[0]["role"] not in ("system", "developer") or turns[0]["content"].strip() in text


def _build_turns(messages: Sequence[Message], template: str) -> list[Turn]:
    """Convert messages to the format that templates expect."""
    functions: dict[str, str] = {}  # names by call id
    ids: dict[str, str] = {}  # ids in the template's form
    numbers = count()
    turns = []
    for message in messages:
        # Templates concatenate the contents, and most fail if one is None.
        turn: Turn = {**message.turn(), "content": message.text or ""}
        if (reasoning := message.reasoning_content) is not None:
            turn["reasoning"] = reasoning
            # gpt-oss's template refuses a call with both reasoning and content.
            if _THINKING_FIELD.search(template) and not (turn["content"] and turn.get("tool_calls")):
                turn["thinking"] = reasoning
        if turn["role"] == "developer" and "developer" not in template:
            turn["role"] = "system"
        if not turn.get("tool_calls"):
            turn.pop("tool_calls", None)
        for call in turn.get("tool_calls", ()):
            if "id" in call:
                name = functions[call["id"]] = call["function"]["name"]
                ids[call["id"]] = _make_id(call["id"], name, next(numbers), template)
                call["id"] = ids[call["id"]]
        if "tool_call_id" in turn:
            if turn["tool_call_id"] in functions:
                turn.setdefault("name", functions[turn["tool_call_id"]])
            turn["tool_call_id"] = ids.get(turn["tool_call_id"]) or _shorten_id(turn["tool_call_id"], template)
        turns.append(turn)
    return turns


def _make_id(call_id: str, name: str, number: int, template: str) -> str:
    """Return a call id as the template expects it; Kimi's have the function's name."""
    if "<|tool_call_argument_begin|>" in template and not call_id.startswith("functions."):
        return f"functions.{name}:{number}"
    return _shorten_id(call_id, template)


def _shorten_id(call_id: str, template: str) -> str:
    """Return a call id that the template accepts.

    Mistral's templates require nine letters or digits.
    """
    if "length 9" not in template or (len(call_id) == 9 and call_id.isalnum()):
        return call_id
    return blake2b(call_id.encode("utf-8", "replace")).hexdigest()[:9]


def supports_tools(tokenizer: PreTrainedTokenizerBase, template: str, tools: Sequence[Any] = (_DUMMY_TOOL,)) -> bool:
    """Return true if the template's output changes with the tools."""
    probe = [{"role": "user", "content": "Hi"}]
    try:
        with_tools = tokenizer.apply_chat_template(probe, tools=list(tools), tokenize=False, add_generation_prompt=True)
        return bool(with_tools != tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True))
    except TEMPLATE_ERRORS:
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
        reasoning = {name: turn[name] for name in _REASONING_FIELDS if name in turn}
        rewritten.append({"role": turn["role"], "content": "\n".join(part for part in parts if part), **reasoning})
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

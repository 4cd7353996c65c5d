"""Tool calls of one model, and grammars that make them valid."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.errors import InvalidRequest
from runners.tasks.answers.lark import Lark, find_added_tokens, quote
from runners.tasks.answers.thinking import Thinking, ThinkingFormat
from runners.tasks.notations import find_notation
from runners.tasks.notations.json_calls import HERMES
from runners.tasks.notations.notation import ToolFunction
from runners.tasks.tool_call_reader import ToolCallReader

#: `tool_choice` of OpenAI's API; a mapping names the function that must be called.
ToolChoice = Literal["none", "auto", "required"] | Mapping[str, Any]

#: Name of the grammar of the content within the grammar of an answer.
_CONTENT = "content"

#: White space between reasoning and an answer that is not free text.
_SPACE = r"/[ \n\r\t]{1,8}/?"


class ToolSyntax:
    """Tool call notation of one model, chosen by its chat template and expressed in its tokens.

    The response templates of transformers are no substitute: few checkpoints have one, they define no grammar for
    valid calls, and their parser stops at the first mistake.

    Args:
        parser: name of the notation; None if the template decides.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, parser: str | None = None) -> None:
        self.notation = find_notation(read_templates(tokenizer), parser) or HERMES
        self._added_tokens = find_added_tokens(tokenizer)
        self._eos_token = tokenizer.eos_token

    def reader(self, functions: Mapping[str, Mapping[str, Any]] | Collection[str]) -> ToolCallReader:
        """Create the parser that finds calls of the given functions in one text.

        Args:
            functions: names of the functions, with the schemas of their arguments if the notation needs their types.
        """
        notation = self.notation
        schemas = functions if isinstance(functions, Mapping) else {name: {} for name in functions}
        return ToolCallReader(
            notation.starts,
            lambda trigger, start: notation.create_scanner(trigger, start, schemas),
            notation.after,
            at_start_only=notation.at_start_only,
        )

    def grammar(
        self,
        tools: Sequence[Mapping[str, Any]],
        choice: ToolChoice,
        parallel: bool = True,
        *,
        allowed: Collection[str] | None = None,
        thinking: tuple[ThinkingFormat, Thinking] | None = None,
        content: str | None = None,
    ) -> str | None:
        """Create a grammar for llguidance of an answer that may, or must, call tools.

        Args:
            tools: tools of OpenAI's API, `{"type": "function", "function": {"name", "parameters", "strict"}}`. Parts of
                a schema that cannot be enforced are ignored unless `strict` is true.
            choice: `auto`: text, in which every call must be valid; `required`: only calls;
                `{"type": "function", "function": {"name": …}}`: one call of that function; `none`: no call.
            parallel: allow several calls.
            allowed: names of the functions that may be called; None for all.
            thinking: reasoning before the answer, which is free text.
            content: grammar that the answer conforms to if it is no call; None for free text.

        Raises:
            InvalidRequest: the parameters of a function cannot be enforced, or the chosen function is unknown.
        """
        functions = choose_functions(tools, choice, allowed)
        parallel = parallel and not isinstance(choice, Mapping)
        if not functions and content is None:
            return None
        notation = self.notation
        several = parallel and (notation.between is not None or notation.joins_calls)
        marks = (*thinking[0].opening, *thinking[0].closing) if thinking is not None else ()
        lark = self._lark(marks, next_to_json=content is not None)
        begun = f"{lark.literal(notation.trigger)} calls" if notation.trigger else "calls"
        start = _write_content()
        if functions:
            again = several and notation.between is not None
            between = f"{quote(notation.between)} " if notation.between else ""
            required = f"{begun} ({between}{begun})*" if again else begun
            if choice != "auto":
                start = required
            elif content is not None:
                start = f"{_write_content()} | {required}"
            else:
                start = self._write_auto(lark, [function.name for function in functions], again)
            for index, function in enumerate(functions):
                lark.define(f"call_{index}", notation.write_call(lark, index, function))
            lark.define("call", " | ".join(f"call_{index}" for index in range(len(functions))))
            lark.define("calls", notation.write_group(lark, several, len(functions)))
        return write_answer(lark, start, thinking, content, free=choice == "auto" and content is None)

    def _lark(self, marks: Collection[str], *, next_to_json: bool) -> Lark:
        # The tokens that begin a call are no text, nor is the token that ends the answer.
        begin = (*self.notation.starts, self.notation.trigger, *self.notation.foreign, self._eos_token or "", *marks)
        return Lark(self._added_tokens, begin, next_to_json=next_to_json)

    def _write_auto(self, lark: Lark, names: list[str], again: bool) -> str:
        """Return the expression of free text in which each call is valid."""
        notation = self.notation
        if not notation.trigger:
            lark.define("FIRST", f"/(?s:.+)/ & ~/{notation.write_opening(names)}(?s:.*)/")
            later = f" (<[{lark.tokens_in_text}]> TEXT?)*" if lark.tokens_in_text else ""
            return f"calls | FIRST?{later}"
        begun = lark.define("begun", lark.until(notation.trigger))
        return f"({begun} calls)* {lark.free}" if again else f"{lark.free} | {begun} calls"


def choose_functions(
    tools: Sequence[Mapping[str, Any]], choice: ToolChoice, allowed: Collection[str] | None = None
) -> list[ToolFunction]:
    """Return the functions that an answer may call.

    Raises:
        InvalidRequest: the arguments of a function are no object, or the chosen function is unknown.
    """
    if choice == "none":
        return []
    numbered = list(enumerate(tools))
    if isinstance(choice, Mapping):
        name = choice["function"]["name"]
        numbered = [(index, tool) for index, tool in numbered if tool["function"]["name"] == name]
        if not numbered:
            raise InvalidRequest(f"there is no tool {name}", field="tool_choice")
    chosen = [(index, tool) for index, tool in numbered if allowed is None or tool["function"]["name"] in allowed]
    return [ToolFunction.from_tool(index, tool) for index, tool in chosen]


def _write_content() -> str:
    return f"@{_CONTENT}"


def write_answer(
    lark: Lark, answer: str, thinking: tuple[ThinkingFormat, Thinking] | None, content: str | None, *, free: bool
) -> str:
    """Return the grammar of an answer, with reasoning before it.

    Args:
        answer: expression of the answer; `@content` stands for the content.
        free: the answer is free text with calls, and may end within the reasoning.
    """
    start = f"start: {answer}"
    if thinking is not None:
        reasoning = thinking[0].write_rules(lark, thinking[1])
        start = f"start: {reasoning} {'' if free else _SPACE} answer"
        if free:
            opening = " | ".join(lark.literal(mark) for mark in thinking[0].opening)
            unclosed = lark.without(thinking[0].closing)
            start += f" | {unclosed}" if thinking[1] is Thinking.OPEN else f" | ({opening}) {unclosed}"
        lark.define("answer", answer)
    main = "\n".join([start, *lark.rules])
    return main if content is None else combine(main, content)


def combine(main: str, content: str) -> str:
    """Return a grammar in which `@content` of the first one stands for the second one."""
    parts = json.loads(content)["grammars"] if content.startswith("{") else [{"lark_grammar": content}]
    return json.dumps({"grammars": [{"lark_grammar": main}, {**parts[0], "name": _CONTENT}, *parts[1:]]})


def read_templates(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of all chat templates of a tokenizer."""
    templates: Any = tokenizer.chat_template or ""
    return "\n".join(map(str, templates.values())) if isinstance(templates, Mapping) else str(templates)

"""Tool call notations of model families, and grammars that make calls valid."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.errors import InvalidRequest
from runners.engines.generate.schemas import json_rule
from runners.tasks.tool_call_reader import ToolCallReader

#: `tool_choice` of OpenAI's API; a mapping names the function that must be called.
ToolChoice = Literal["none", "auto", "required"] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Notation:
    """Notation of a family of models for `{"name": …, "arguments": …}`.

    Attributes:
        template_marker: text by which the chat templates of these models are recognized.
        before, after: text before and after a call; it may be a special token, which the text need not contain.
        between: text between two calls; None if an answer has at most one call.
        arguments: key of the arguments.
        in_array: calls are elements of an array.
        at_start_only: calls appear only at the beginning of an answer, because only their JSON marks them.
        foreign: tokens that begin a call in another notation.
    """

    template_marker: str
    before: str = ""
    after: str = ""
    between: str | None = None
    arguments: str = "arguments"
    in_array: bool = False
    at_start_only: bool = False
    foreign: tuple[str, ...] = ()

    @property
    def opening(self) -> str:
        """The first characters of a call's JSON."""
        return '[{"name":' if self.in_array else '{"name":'


#: Notation of Hermes, Qwen and SmolLM, and the default for all other models.
HERMES = Notation("<tool_call>", before="<tool_call>", after="</tool_call>", between="\n")
MISTRAL = Notation("[TOOL_CALLS]", before="[TOOL_CALLS]", between=", ", in_array=True)
LLAMA = Notation(
    '{"name": function name, "parameters": dictionary',
    arguments="parameters",
    at_start_only=True,
    foreign=("<|python_tag|>",),
)

NOTATIONS = (MISTRAL, LLAMA, HERMES)


class ToolSyntax:
    """Tool call notation of one model, chosen by its chat template and expressed in its tokens.

    The response templates of transformers are no substitute: few checkpoints have one, they define no grammar for
    valid calls, and their parser stops at the first mistake.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        template = str(tokenizer.chat_template or "")
        self.notation = next((notation for notation in NOTATIONS if notation.template_marker in template), HERMES)
        added = tokenizer.added_tokens_decoder.items()
        # llguidance does not treat these tokens as text, even if the tokenizer decodes them.
        self._added_tokens = {str(entry): token for token, entry in added if entry.special or _is_tag(str(entry))}
        excluded = {self.notation.before, *self.notation.foreign, tokenizer.eos_token}
        self._text_tokens = _format_ranges(token for name, token in self._added_tokens.items() if name not in excluded)
        hidden = {str(entry) for _, entry in added if entry.special}
        self._trigger = "" if self.notation.before in hidden else self.notation.before

    def reader(self, names: Collection[str]) -> ToolCallReader:
        """Create the parser that finds calls of the given functions in one text."""
        notation = self.notation
        return ToolCallReader(
            names,
            trigger=self._trigger,
            opening=notation.opening,
            after=notation.after,
            arguments=notation.arguments,
            at_start_only=notation.at_start_only,
        )

    def grammar(self, tools: Sequence[Mapping[str, Any]], choice: ToolChoice, parallel: bool = True) -> str | None:
        """Create a grammar in llguidance's lark for an answer that may, or must, call tools.

        Args:
            tools: tools of OpenAI's API, `{"type": "function", "function": {"name", "parameters", "strict"}}`. Parts of
                a schema that cannot be enforced are ignored unless `strict` is true.
            choice: `auto`: text, in which every call must be valid; `required`: only calls;
                `{"type": "function", "function": {"name": …}}`: one call of that function; `none`: no grammar.
            parallel: allow several calls.

        Raises:
            InvalidRequest: the parameters of a function cannot be enforced, or the chosen function is unknown.
        """
        if choice == "none" or not tools:
            return None
        functions = {i: tool["function"] for i, tool in enumerate(tools)}
        if isinstance(choice, Mapping):
            name = choice["function"]["name"]
            functions = {i: function for i, function in functions.items() if function["name"] == name}
            if not functions:
                raise InvalidRequest(f"there is no tool {name}", field="tool_choice")
            parallel = False
        several = parallel and self.notation.between is not None
        rules = [
            *(self._auto_rules(several) if choice == "auto" else self._required_rules(several)),
            f"calls: {self._calls_rule(several)}",
            "call: " + " | ".join(f"call_{i}" for i in functions),
            *(self._call_rule(i, function) for i, function in functions.items()),
        ]
        return "\n".join(rules)

    def _required_rules(self, several: bool) -> Iterator[str]:
        notation = self.notation
        begun = f"{self._token_or_text(notation.before)} calls" if notation.before else "calls"
        again = several and not notation.in_array
        yield f"start: {begun} ({_quote(notation.between or '')} {begun})*" if again else f"start: {begun}"

    def _auto_rules(self, several: bool) -> Iterator[str]:
        notation = self.notation
        yield "TEXT: /(?s:.+)/"
        yield f"marked: TEXT? <[{self._text_tokens}]>" if self._text_tokens else "marked: TEXT"
        marked = "marked* " if self._text_tokens else ""
        if notation.at_start_only:
            yield f"FIRST: /(?s:.+)/ & ~/\\s*{_escape(notation.opening)}(?s:.*)/"
            later = f" (<[{self._text_tokens}]> TEXT?)*" if self._text_tokens else ""
            yield f"start: calls | FIRST?{later}"
            return
        yield f"start: (begun calls)* {marked}TEXT?" if several else f"start: {marked}TEXT? | begun calls"
        yield f"trigger[lazy]: /(?s:.*)/ {_quote(notation.before)}"
        token = self._added_tokens.get(notation.before)
        yield f"begun: {marked}trigger" if token is None else f"begun: {marked}(trigger | TEXT? <[{token}]>)"

    def _calls_rule(self, several: bool) -> str:
        notation = self.notation
        if notation.in_array:
            more = f" ({_quote(notation.between or '')} call)*" if several else ""
            return f'" "? "[" call{more} "]"'
        return f'"\\n"? call "\\n"? {self._token_or_text(notation.after)}' if notation.after else "call"

    def _call_rule(self, index: int, function: Mapping[str, Any]) -> str:
        field = f"tools[{index}].function.parameters"
        schema = _arguments_schema(function, field)
        rule = json_rule(schema, field, lenient=function.get("strict") is not True)
        head = f'{{"name": {_quote(function["name"])}, "{self.notation.arguments}": '
        return f'call_{index}: {_quote(head)} %json {rule} "}}"'

    def _token_or_text(self, text: str) -> str:
        token = self._added_tokens.get(text)
        return _quote(text) if token is None else f"<[{token}]>"


def _arguments_schema(function: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the schema of a function's arguments; without `parameters` it has no arguments.

    Source: https://platform.openai.com/docs/api-reference/chat/create
    """
    parameters = function.get("parameters")
    if parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if parameters.get("type", "object") != "object":
        raise InvalidRequest("must be 'object', which is what arguments are", field=f"{field}.type")
    return {"type": "object", **parameters}


def _is_tag(text: str) -> bool:
    return text.startswith("<") and text.endswith(">")


def _format_ranges(tokens: Iterable[int]) -> str:
    """Format token ids as llguidance's ranges: `3-7,9`."""
    runs = [
        [token for _, token in run] for _, run in groupby(enumerate(sorted(tokens)), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escape(text: str) -> str:
    """Escape literal text for a regular expression of lark."""
    return "".join(f"\\{character}" if character in "[]{}()" else character for character in text)

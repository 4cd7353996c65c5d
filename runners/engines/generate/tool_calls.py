"""Tool calls as models write them, and a grammar that makes them valid."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.errors import InvalidRequest
from runners.engines.generate.schemas import json_rule
from runners.engines.generate.tool_call_reader import ToolCallReader

#: Of OpenAI's API; a mapping names the function that must be called.
ToolChoice = Literal["none", "auto", "required"] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Notation:
    """How a family of models writes `{"name": …, "arguments": …}`.

    Attributes:
        told_by: what the chat templates of these models say.
        before, after: what stands around a call; models may have tokens for it, which the text need not show.
        between: two calls; None where an answer has one at most.
        arguments: the key of the arguments.
        listed: calls stand in an array.
        leads: calls stand at the beginning of an answer only, since nothing but their JSON tells them.
        foreign: tokens with which these models begin calls of another notation.
    """

    told_by: str
    before: str = ""
    after: str = ""
    between: str | None = None
    arguments: str = "arguments"
    listed: bool = False
    leads: bool = False
    foreign: tuple[str, ...] = ()

    @property
    def opening(self) -> str:
        """The first characters of a call's JSON."""
        return '[{"name":' if self.listed else '{"name":'


#: That of Hermes, Qwen and SmolLM, and of models that are told of none.
HERMES = Notation("<tool_call>", before="<tool_call>", after="</tool_call>", between="\n")
MISTRAL = Notation("[TOOL_CALLS]", before="[TOOL_CALLS]", between=", ", listed=True)
LLAMA = Notation(
    '{"name": function name, "parameters": dictionary',
    arguments="parameters",
    leads=True,
    foreign=("<|python_tag|>",),
)

NOTATIONS = (MISTRAL, LLAMA, HERMES)


class ToolSyntax:
    """The notation that a model's chat template tells of, in the tokens of the model.

    The response templates of transformers are no substitute: few checkpoints have one, they do not say how to make a
    call valid, and their parser gives up at the first mistake.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        template = str(tokenizer.chat_template or "")
        self.notation = next((notation for notation in NOTATIONS if notation.told_by in template), HERMES)
        added = tokenizer.added_tokens_decoder.items()
        # To llguidance these are no text, whether the tokenizer shows them or not.
        self._marked = {str(entry): token for token, entry in added if entry.special or _is_tag(str(entry))}
        kept = {self.notation.before, *self.notation.foreign, tokenizer.eos_token}
        self._free = _ranges(token for name, token in self._marked.items() if name not in kept)
        hidden = {str(entry) for _, entry in added if entry.special}
        self._trigger = "" if self.notation.before in hidden else self.notation.before

    def reader(self, names: Collection[str]) -> ToolCallReader:
        """What finds the calls of these functions in one text."""
        notation = self.notation
        return ToolCallReader(
            names,
            trigger=self._trigger,
            opening=notation.opening,
            after=notation.after,
            arguments=notation.arguments,
            leads=notation.leads,
        )

    def grammar(self, tools: Sequence[Mapping[str, Any]], choice: ToolChoice, parallel: bool = True) -> str | None:
        """A grammar in llguidance's lark for an answer that may, or must, call tools.

        Args:
            tools: of OpenAI's API, `{"type": "function", "function": {"name", "parameters", "strict"}}`. What of a
                schema cannot be enforced is ignored unless `strict` is true.
            choice: `auto`: text, in which calls that are once begun must be valid; `required`: calls and nothing else;
                `{"type": "function", "function": {"name": …}}`: one call of that function; `none`: no grammar.
            parallel: there may be several calls.

        Raises:
            InvalidRequest: parameters of a function cannot be enforced, or the chosen one is unknown.
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
            *(self._free_answer(several) if choice == "auto" else self._answer(several)),
            f"calls: {self._calls(several)}",
            "call: " + " | ".join(f"call_{i}" for i in functions),
            *(self._call(i, function) for i, function in functions.items()),
        ]
        return "\n".join(rules)

    def _answer(self, several: bool) -> Iterator[str]:
        notation = self.notation
        begun = f"{self._spelled(notation.before)} calls" if notation.before else "calls"
        again = several and not notation.listed
        yield f"start: {begun} ({_quoted(notation.between or '')} {begun})*" if again else f"start: {begun}"

    def _free_answer(self, several: bool) -> Iterator[str]:
        notation = self.notation
        yield "TEXT: /(?s:.+)/"
        yield f"marked: TEXT? <[{self._free}]>" if self._free else "marked: TEXT"
        marked = "marked* " if self._free else ""
        if notation.leads:
            yield f"FIRST: /(?s:.+)/ & ~/\\s*{_escaped(notation.opening)}(?s:.*)/"
            later = f" (<[{self._free}]> TEXT?)*" if self._free else ""
            yield f"start: calls | FIRST?{later}"
            return
        yield f"start: (begun calls)* {marked}TEXT?" if several else f"start: {marked}TEXT? | begun calls"
        yield f"trigger[lazy]: /(?s:.*)/ {_quoted(notation.before)}"
        token = self._marked.get(notation.before)
        yield f"begun: {marked}trigger" if token is None else f"begun: {marked}(trigger | TEXT? <[{token}]>)"

    def _calls(self, several: bool) -> str:
        notation = self.notation
        if notation.listed:
            more = f" ({_quoted(notation.between or '')} call)*" if several else ""
            return f'" "? "[" call{more} "]"'
        return f'"\\n"? call "\\n"? {self._spelled(notation.after)}' if notation.after else "call"

    def _call(self, index: int, function: Mapping[str, Any]) -> str:
        field = f"tools[{index}].function.parameters"
        schema = _arguments_schema(function, field)
        rule = json_rule(schema, field, lenient=function.get("strict") is not True)
        head = f'{{"name": {_quoted(function["name"])}, "{self.notation.arguments}": '
        return f'call_{index}: {_quoted(head)} %json {rule} "}}"'

    def _spelled(self, text: str) -> str:
        token = self._marked.get(text)
        return _quoted(text) if token is None else f"<[{token}]>"


def _arguments_schema(function: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Source: https://platform.openai.com/docs/api-reference/chat/create, where no parameters are none at all."""
    parameters = function.get("parameters")
    if parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if parameters.get("type", "object") != "object":
        raise InvalidRequest("must be 'object', which is what arguments are", field=f"{field}.type")
    return {"type": "object", **parameters}


def _is_tag(text: str) -> bool:
    return text.startswith("<") and text.endswith(">")


def _ranges(tokens: Iterable[int]) -> str:
    """Token ids as llguidance writes many: `3-7,9`."""
    runs = [
        [token for _, token in run] for _, run in groupby(enumerate(sorted(tokens)), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    """Literal text within a regular expression of lark."""
    return "".join(f"\\{character}" if character in "[]{}()" else character for character in text)

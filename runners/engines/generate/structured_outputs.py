"""Grammars of vLLM's `structured_outputs`: JSON, regular expressions, choices, grammars."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.generation import StructuredOutputs
from runners.engines.generate.schemas import LIMITS, MAX_LENGTH, json_rule, one_line

_FIELD = "structured_outputs"

#: llguidance's parser recurses into brackets and overflows the stack, which ends the process, at some thousands.
_MAX_BRACKETS = 200

#: The most rules of a grammar: llguidance recurses into the rules that make up a terminal.
_MAX_RULES = 1000

#: Intersecting terminals takes time exponential in their number.
_MAX_INTERSECTIONS = 8

#: Strings and regular expressions of lark.
_LITERAL = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/')

#: What begins a rule or a terminal of lark.
_RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w.-]*(\[[^\]\n]*\])*[ \t]*(::=|:)", re.MULTILINE)

#: Directives of lark that hold no other grammar.
_DIRECTIVES = ("%ignore", "%import", "%json", "%llguidance")


def structured_outputs_grammar(outputs: StructuredOutputs) -> str:
    """Return the grammar, in llguidance's lark, of vLLM's `structured_outputs`.

    Raises:
        InvalidRequest: the constraint is wrong or too large; the message names the wrong field.
    """
    if outputs.json_schema is not None:
        return _json_grammar(_parse_schema(outputs.json_schema), outputs)
    if outputs.json_object:
        return _json_grammar({"type": "object"}, outputs)
    if outputs.regex is not None:
        return regex_grammar(outputs.regex, f"{_FIELD}.regex")
    if outputs.choice is not None:
        return _choice_grammar(outputs.choice)
    return _client_grammar(outputs.grammar or "", f"{_FIELD}.grammar")


def regex_grammar(regex: str, field: str) -> str:
    """Return the grammar of a regular expression.

    Raises:
        InvalidRequest: the expression is wrong, or too large.
    """
    if len(regex) > MAX_LENGTH:
        raise InvalidRequest(f"must be a string of at most {MAX_LENGTH} characters", field=field)
    grammar: str = LLMatcher.grammar_from_regex(regex)
    if wrong := LLMatcher.validate_grammar(grammar, limits=LIMITS):
        raise InvalidRequest(f"{one_line(wrong)}", field=field)
    return grammar


def _parse_schema(given: str | dict[str, Any]) -> Mapping[str, Any]:
    if not isinstance(given, str):
        return given
    try:
        parsed = json.loads(given)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise InvalidRequest("must be a JSON schema, an object or one as JSON", field=f"{_FIELD}.json")
    return parsed


def _json_grammar(schema: Mapping[str, Any], outputs: StructuredOutputs) -> str:
    options: dict[str, Any] = {}
    if outputs.whitespace_pattern is not None:
        options["whitespace_pattern"] = outputs.whitespace_pattern
    if outputs.disable_any_whitespace:
        options = {"whitespace_flexible": False, "whitespace_pattern": None}
    own = schema.get("x-guidance")
    if options:
        schema = {**schema, "x-guidance": {**(own if isinstance(own, Mapping) else {}), **options}}
    return f"start: %json {json_rule(schema, f'{_FIELD}.json', lenient=True)}"


def _choice_grammar(choice: list[str]) -> str:
    if sum(map(len, choice)) > MAX_LENGTH:
        raise InvalidRequest(f"has more than {MAX_LENGTH} characters", field=f"{_FIELD}.choice")
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choice)


def _client_grammar(grammar: str, field: str) -> str:
    """Return a client's grammar as lark, after checks of what llguidance does not limit."""
    if len(grammar) > MAX_LENGTH:
        raise InvalidRequest(f"has {len(grammar)} characters, and no more than {MAX_LENGTH} are compiled", field=field)
    _check_size(grammar, field)
    if not is_lark_syntax(grammar):
        try:
            grammar = gbnf_to_lark(grammar)
        except Exception as error:  # the converter raises bare ones
            reason = f"is neither a grammar in llguidance's lark nor one in GBNF: {one_line(str(error))}"
            raise InvalidRequest(reason, field=field) from None
    checked = _check_directives(grammar, field)
    # Wrapped, because text that begins with a brace would be read as another format.
    wrapped: str = LLMatcher.grammar_from_lark(checked)
    if wrong := LLMatcher.validate_grammar(wrapped, limits=LIMITS):
        raise InvalidRequest(f"{one_line(wrong)}", field=field)
    return wrapped


def _check_size(grammar: str, field: str) -> None:
    depth = deepest = 0
    for character in grammar:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(depth - 1, 0)
    if deepest > _MAX_BRACKETS:
        raise InvalidRequest(f"is nested too deeply, more than {_MAX_BRACKETS} brackets", field=field)
    if len(_RULE.findall(grammar)) > _MAX_RULES:
        raise InvalidRequest(f"has more than {_MAX_RULES} rules", field=field)
    if _LITERAL.sub("", grammar).count("&") > _MAX_INTERSECTIONS:
        raise InvalidRequest(f"intersects terminals more than {_MAX_INTERSECTIONS} times", field=field)


def _check_directives(grammar: str, field: str) -> str:
    """Check the JSON schemas within a grammar, and refuse grammars within it."""
    decoder, parts, position = json.JSONDecoder(), list[str](), 0
    for found in re.finditer(r"%[a-z]+", grammar):
        name = found.group()
        if found.start() < position or name not in (*_DIRECTIVES, "%lark", "%regex"):
            continue
        if name not in _DIRECTIVES:
            raise InvalidRequest(f"{name} is not supported", field=field)
        if name != "%json":
            continue
        begin = re.compile(r"\s*").match(grammar, found.end())
        start = found.end() if begin is None else begin.end()
        try:
            schema, end = decoder.raw_decode(grammar, start)
        except (ValueError, RecursionError):
            schema = None
        if not isinstance(schema, dict):
            raise InvalidRequest("%json must be followed by a JSON schema, an object", field=field)
        parts += [grammar[position : found.end()], " ", json_rule(schema, field, lenient=True)]
        position = end
    return "".join([*parts, grammar[position:]])

"""Constrained decoding: masks of the tokens that a grammar allows next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest
from hf_runtime.contract.generation import StructuredOutputs
from runners.engines.generate.schemas import LIMITS, MAX_LENGTH, json_rule, one_line
from runners.engines.generate.structured_outputs import regex_grammar, structured_outputs_grammar

#: The most characters of one grammar; the grammar of many tools contains many schemas.
_MAX_GRAMMAR = 4 * MAX_LENGTH


class GrammarCompiler:
    """Compiler of grammars for one model; it also returns the bytes of tokens.

    Loading the vocabulary takes a second and happens at first use. Several threads may use the compiler.

    Args:
        vocab_size: number of the model's logits, which may differ from the number of the tokenizer's tokens.
        eos_token_ids: tokens that end a sequence.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos_token_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos = sorted(eos_token_ids)
        self._lock = threading.Lock()
        self._loaded: _Vocabulary | InvalidRequest | None = None

    def prepare(self) -> None:
        """Load the vocabulary now, so that the next call does not wait for it."""
        self._load_vocabulary()

    def compile(self, grammar: str, field: str = "grammar") -> Grammar:
        """Compile a grammar in llguidance's lark.

        Source: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md

        Args:
            field: field of the request that the grammar comes from, for error messages.

        Raises:
            InvalidRequest: the grammar is wrong or too large, or the bytes of the tokenizer's tokens are unknown.
        """
        vocabulary = self._load_vocabulary()
        if isinstance(vocabulary, InvalidRequest):
            raise vocabulary.with_field(field)
        if len(grammar) > _MAX_GRAMMAR:
            raise InvalidRequest(f"its grammar has {len(grammar)} characters of at most {_MAX_GRAMMAR}", field=field)
        matcher = LLMatcher(vocabulary.tokenizer, grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()  # some mistakes show only at the first token
        if matcher.is_error():
            raise InvalidRequest(f"{one_line(matcher.get_error())}", field=field)
        return Grammar(matcher, vocabulary, field)

    def response_format(
        self, response_format: Mapping[str, Any], wrap: Callable[[str], str] = lambda content: content
    ) -> Grammar | None:
        """Compile the grammar of an OpenAI API's `response_format`; return None for free text.

        In addition to `text`, `json_object` and `json_schema`, `{"type": "regex", "regex": …}` is accepted, and a
        `schema` next to `json_object`, as llama.cpp has it. A schema is enforced completely; with `"strict": false`, as
        far as possible. If `strict` is set, objects have only the properties that they name.

        Source: https://platform.openai.com/docs/api-reference/chat/create

        Args:
            wrap: returns the grammar of the answer from that of its content.

        Raises:
            InvalidRequest: as in `compile`; the message names the wrong field.
        """
        lark = response_format_grammar(response_format)
        return None if lark is None else self.compile(wrap(lark), "response_format")

    def structured_outputs(
        self, outputs: StructuredOutputs, wrap: Callable[[str], str] = lambda content: content
    ) -> Grammar:
        """Compile the grammar of vLLM's `structured_outputs`.

        Args:
            wrap: as in `response_format`.

        Raises:
            InvalidRequest: as in `compile`; the message names the wrong field.
        """
        return self.compile(wrap(structured_outputs_grammar(outputs)), "structured_outputs")

    def token_bytes(self, token: int) -> bytes:
        """Return the exact bytes of a token; empty for a token that the tokenizer does not have.

        If the bytes of the tokenizer's tokens are unknown, return the bytes of the token's name.
        """
        vocabulary = self._load_vocabulary()
        if isinstance(vocabulary, InvalidRequest):
            name = self._tokenizer.convert_ids_to_tokens(token)
            return str(name or "").replace("\u2581", " ").encode()
        return vocabulary.tokenizer.decode_bytes([token]) if token < vocabulary.size else b""

    def _load_vocabulary(self) -> _Vocabulary | InvalidRequest:
        with self._lock:
            if self._loaded is None:
                try:
                    self._loaded = _Vocabulary(self._tokenizer, self._vocab_size, self._eos)
                except ValueError:
                    self._loaded = InvalidRequest(
                        "the model's tokenizer does not spell its tokens in bytes, so its text cannot be constrained"
                    )
            return self._loaded


class Grammar:
    """Compiled grammar that a text must conform to."""

    def __init__(self, matcher: LLMatcher, vocabulary: _Vocabulary, field: str) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._field = field

    def matcher(self, end_ids: Collection[int] = ()) -> Matcher:
        """Create a matcher at the beginning of a text.

        Args:
            end_ids: tokens that end the text in addition to the model's own.
        """
        ends = [*self._vocabulary.eos, *(token for token in end_ids if token not in self._vocabulary.eos)]
        return Matcher(self._matcher.deep_copy(), self._vocabulary, self._field, ends)


class Matcher:
    """State of one text within its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: _Vocabulary, field: str, ends: list[int]) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._field = field
        self._ends = ends

    @property
    def finished(self) -> bool:
        """True if only the end of the text may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self, logits: torch.Tensor) -> None:
        """Set the logits of all tokens that the grammar does not allow next to -inf, in place.

        Tokens that end the text are allowed only where the grammar is satisfied.

        Args:
            logits: shape (vocabulary,), of any float type, on any device.

        Raises:
            InvalidRequest: the grammar is too complex.
            InferenceFailed: the model has none of the allowed tokens.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: logits.shape[0]].astype(np.bool_)
        allowed[self._vocabulary.substitutes] = False
        allowed[self._ends] = self._matcher.is_accepting()
        self._raise_if_failed()
        if not allowed.any():
            raise InferenceFailed("the model has no token with which the text could conform to its grammar")
        logits.masked_fill_(torch.from_numpy(~allowed).to(logits.device), float("-inf"))

    def accept(self, token: int) -> None:
        """Advance by the next token; tokens that end the text are ignored.

        Raises:
            InvalidRequest: the grammar is too complex.
            InferenceFailed: the grammar does not allow the token.
        """
        if token in self._ends:
            return
        known = self._matcher.try_consume_tokens([token])
        self._raise_if_failed()
        if not known:
            raise InferenceFailed("a token was chosen against the grammar")

    def _raise_if_failed(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(f"is too complex: {one_line(self._matcher.get_error())}", field=self._field)


class _Vocabulary:
    """Vocabulary of a model in llguidance's format.

    Attributes:
        size: number of the tokenizer's tokens.
        eos: tokens that end a sequence, within the model's logits.
        substitutes: end tokens of llguidance that the model does not use as such.

    Raises:
        ValueError: the bytes of the tokenizer's tokens are unknown.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos: Collection[int]) -> None:
        if not tokenizer.is_fast:
            raise ValueError("not a tokenizer of the tokenizers library")
        fast: Any = tokenizer
        self.size: int = fast.backend_tokenizer.get_vocab_size(with_added_tokens=True)
        self.eos = [token for token in eos if token < vocab_size]
        # llguidance needs at least one end token, and it must be one of the tokenizer.
        ends = [token for token in eos if token < self.size] or [self.size - 1]
        self.substitutes = [token for token in ends if token not in self.eos and token < vocab_size]
        self.tokenizer: LLTokenizer = llguidance.hf.from_tokenizer(
            fast, n_vocab=max(self.size, vocab_size), eos_token=ends
        )


def response_format_grammar(response_format: Mapping[str, Any]) -> str | None:
    """Return the lark grammar of an OpenAI API's `response_format`; None for free text.

    Raises:
        InvalidRequest: the format is wrong; the message names the wrong field.
    """
    match response_format:
        case {"type": "text"}:
            return None
        case {"type": "json_object" | "json_schema", "schema": schema} if schema is not None:
            return _json_schema_grammar(response_format, "response_format")
        case {"type": "json_object"}:
            if ignored := [name for name, value in response_format.items() if name != "type" and value is not None]:
                raise InvalidRequest(
                    "unknown; a schema is given as schema, or with the type json_schema",
                    field=f"response_format.{ignored[0]}",
                )
            return _json_grammar({"type": "object"}, "response_format", lenient=False)
        case {"type": "json_schema", "json_schema": Mapping() as wanted}:
            return _json_schema_grammar(wanted, "response_format.json_schema")
        case {"type": "json_schema"}:
            raise InvalidRequest("must be an object with a schema", field="response_format.json_schema")
        case {"type": "regex", "regex": str(regex)} if len(regex) <= MAX_LENGTH:
            return regex_grammar(regex, "response_format.regex")
        case {"type": "regex"}:
            raise InvalidRequest(f"must be a string of at most {MAX_LENGTH} characters", field="response_format.regex")
        case _:
            raise InvalidRequest(
                "must be 'text', 'json_object', 'json_schema' or 'regex'", field="response_format.type"
            )


def _json_schema_grammar(wanted: Mapping[str, Any], field: str) -> str:
    schema = wanted.get("schema", {"type": "object"})
    if not isinstance(schema, Mapping):
        raise InvalidRequest("must be an object", field=f"{field}.schema")
    strict = wanted.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise InvalidRequest("must be true or false", field=f"{field}.strict")
    # A client that does not say how strict it is gets all of JSON Schema, which leaves objects open.
    return _json_grammar(schema, f"{field}.schema", lenient=strict is False, closed=strict is not None)


def _json_grammar(schema: Mapping[str, Any], field: str, *, lenient: bool, closed: bool = False) -> str:
    return f"start: %json {json_rule(schema, field, lenient=lenient, closed=closed)}"

"""Keeps text to a grammar: which tokens may come next."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest
from runners.engines.generate.schemas import LIMITS, MAX_LENGTH, json_rule, one_line

#: Characters of one grammar; that of many tools holds many schemas.
_MAX_GRAMMAR = 4 * MAX_LENGTH


class GrammarCompiler:
    """Makes grammars for one model, and knows the bytes of its tokens.

    What it reads of the tokenizer takes a second and is read when first needed; it may be used from several threads.

    Args:
        vocab_size: number of the model's logits, which may be more or less than the tokenizer's tokens.
        eos_token_ids: tokens that end a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos_token_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos = sorted(eos_token_ids)
        self._lock = threading.Lock()
        self._read: _Vocabulary | InvalidRequest | None = None

    def prepare(self) -> None:
        """Read the tokenizer now, so that whoever comes next need not wait."""
        self._vocabulary()

    def compile(self, grammar: str, field: str = "grammar") -> Grammar:
        """A grammar in llguidance's lark, https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.

        Args:
            field: where the grammar comes from in the request, for messages.

        Raises:
            InvalidRequest: it is wrong, or too large; or the model's tokenizer does not spell its tokens in bytes.
        """
        vocabulary = self._vocabulary()
        if isinstance(vocabulary, InvalidRequest):
            raise vocabulary.in_field(field)
        if len(grammar) > _MAX_GRAMMAR:
            raise InvalidRequest(f"its grammar has {len(grammar)} characters of at most {_MAX_GRAMMAR}", field=field)
        matcher = LLMatcher(vocabulary.tokenizer, grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()  # some mistakes show with the first token only
        if matcher.is_error():
            raise InvalidRequest(f"{one_line(matcher.get_error())}", field=field)
        return Grammar(matcher, vocabulary, field)

    def response_format(self, given: Mapping[str, Any]) -> Grammar | None:
        """The grammar of an OpenAI API's `response_format`; None for free text.

        Beside `text`, `json_object` and `json_schema` there is `{"type": "regex", "regex": …}`. A schema is enforced
        as a whole; with `"strict": false`, as far as it can be.

        Source: https://platform.openai.com/docs/api-reference/chat/create

        Raises:
            InvalidRequest: as `compile`; names the wrong field.
        """
        lark = response_format_grammar(given)
        return None if lark is None else self.compile(lark, "response_format")

    def token_bytes(self, token: int) -> bytes:
        """The exact bytes of a token; none for one that the tokenizer does not have.

        Where the tokenizer does not spell its tokens in bytes, those of its name.
        """
        vocabulary = self._vocabulary()
        if isinstance(vocabulary, InvalidRequest):
            name = self._tokenizer.convert_ids_to_tokens(token)
            return str(name or "").replace("\u2581", " ").encode()
        return vocabulary.tokenizer.decode_bytes([token]) if token < vocabulary.known else b""

    def _vocabulary(self) -> _Vocabulary | InvalidRequest:
        with self._lock:
            if self._read is None:
                try:
                    self._read = _Vocabulary(self._tokenizer, self._vocab_size, self._eos)
                except ValueError:
                    self._read = InvalidRequest(
                        "the model's tokenizer does not spell its tokens in bytes, so its text cannot be constrained"
                    )
            return self._read


class Grammar:
    """What a text must conform to."""

    def __init__(self, matcher: LLMatcher, vocabulary: _Vocabulary, field: str) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._field = field

    def matcher(self) -> Matcher:
        """The beginning of one text."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary, self._field)


class Matcher:
    """Follows one text through its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: _Vocabulary, field: str) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._field = field

    @property
    def finished(self) -> bool:
        """Whether nothing may follow but the end."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self, logits: torch.Tensor) -> None:
        """Set the logits of all tokens that may not come next to -inf.

        A token that ends the text may come where the grammar is satisfied, and only there.

        Args:
            logits: shape (vocabulary,), of any float type, on any device; changed in place.

        Raises:
            InvalidRequest: the grammar is too complex.
            InferenceFailed: the model has none of the tokens that may come next.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: logits.shape[0]].astype(np.bool_)
        allowed[self._vocabulary.stand_ins] = False
        allowed[self._vocabulary.eos] = self._matcher.is_accepting()
        self._check()
        if not allowed.any():
            raise InferenceFailed("the model has no token with which the text could conform to its grammar")
        logits.masked_fill_(torch.from_numpy(~allowed).to(logits.device), float("-inf"))

    def accept(self, token: int) -> None:
        """Go on behind the next token; nothing follows one that ends the text.

        Raises:
            InvalidRequest: the grammar is too complex.
            InferenceFailed: the token may not come next.
        """
        if token in self._vocabulary.eos:
            return
        known = self._matcher.try_consume_tokens([token])
        self._check()
        if not known:
            raise InferenceFailed("a token was chosen against the grammar")

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(f"is too complex: {one_line(self._matcher.get_error())}", field=self._field)


class _Vocabulary:
    """A model's tokens as llguidance reads them.

    Attributes:
        known: number of the tokenizer's tokens.
        eos: tokens that end a text, within the model's logits.
        stand_ins: what llguidance takes for such tokens, and the model does not.

    Raises:
        ValueError: the tokenizer does not spell its tokens in bytes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos: Collection[int]) -> None:
        if not tokenizer.is_fast:
            raise ValueError("not a tokenizer of the tokenizers library")
        fast: Any = tokenizer
        self.known: int = fast.backend_tokenizer.get_vocab_size(with_added_tokens=True)
        self.eos = [token for token in eos if token < vocab_size]
        # llguidance needs one, of the tokenizer's own.
        ends = [token for token in eos if token < self.known] or [self.known - 1]
        self.stand_ins = [token for token in ends if token not in self.eos and token < vocab_size]
        self.tokenizer: LLTokenizer = llguidance.hf.from_tokenizer(
            fast, n_vocab=max(self.known, vocab_size), eos_token=ends
        )


def response_format_grammar(given: Mapping[str, Any]) -> str | None:
    """The grammar in lark of an OpenAI API's `response_format`; None for free text.

    Raises:
        InvalidRequest: names the wrong field.
    """
    match given:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return _json_grammar({"type": "object"}, "response_format", lenient=False)
        case {"type": "json_schema", "json_schema": Mapping() as wanted}:
            return _json_schema_grammar(wanted)
        case {"type": "json_schema"}:
            raise InvalidRequest("must be an object with a schema", field="response_format.json_schema")
        case {"type": "regex", "regex": str(regex)} if len(regex) <= MAX_LENGTH:
            return _regex_grammar(regex)
        case {"type": "regex"}:
            raise InvalidRequest(f"must be a string of at most {MAX_LENGTH} characters", field="response_format.regex")
        case _:
            raise InvalidRequest(
                "must be 'text', 'json_object', 'json_schema' or 'regex'", field="response_format.type"
            )


def _json_schema_grammar(wanted: Mapping[str, Any]) -> str:
    schema = wanted.get("schema", {"type": "object"})
    if not isinstance(schema, Mapping):
        raise InvalidRequest("must be an object", field="response_format.json_schema.schema")
    strict = wanted.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise InvalidRequest("must be true or false", field="response_format.json_schema.strict")
    return _json_grammar(schema, "response_format.json_schema.schema", lenient=strict is False)


def _json_grammar(schema: Mapping[str, Any], field: str, *, lenient: bool) -> str:
    return f"start: %json {json_rule(schema, field, lenient=lenient)}"


def _regex_grammar(regex: str) -> str:
    grammar = LLMatcher.grammar_from_regex(regex)
    wrong = LLMatcher.validate_grammar(grammar, limits=LIMITS)
    if wrong:
        raise InvalidRequest(f"{one_line(wrong)}", field="response_format.regex")
    return grammar

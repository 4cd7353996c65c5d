"""Pieces of llguidance's lark for text in which some words are tokens of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby

from transformers import PreTrainedTokenizerBase


class Lark:
    """Writer of a grammar's rules in the tokens of one model.

    Added tokens are written by their ids, because llguidance does not treat them as text, even if the tokenizer
    decodes them.

    Args:
        reserved: words that end free text, so that it does not contain them as tokens.
        next_to_json: an answer may be JSON instead, so that calls in JSON consist of its lexemes.

    Attributes:
        free: expression for any text.
    """

    def __init__(
        self, added_tokens: dict[str, int], reserved: Collection[str] = (), *, next_to_json: bool = False
    ) -> None:
        self.next_to_json = next_to_json
        self._reserved = frozenset(reserved)
        self._added = added_tokens
        names = sorted(added_tokens, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names))) if names else None
        self.free = f"{self._write_marked(self._reserved)}TEXT?"
        self._rules: dict[str, str] = {"TEXT": "TEXT: /(?s:.+)/"}

    @property
    def rules(self) -> list[str]:
        """All rules so far."""
        return list(self._rules.values())

    @property
    def tokens_in_text(self) -> str:
        """Ids of the added tokens that free text may contain, as ranges."""
        return self._find_others(self._reserved)

    def _find_others(self, left_out: Collection[str]) -> str:
        """Return the ids of the added tokens that are not left out, as ranges."""
        return format_ranges(token for name, token in self._added.items() if name not in left_out)

    def _write_marked(self, left_out: Collection[str]) -> str:
        others = self._find_others(left_out)
        return f"(TEXT? <[{others}]>)* " if others else ""

    def without(self, words: Collection[str]) -> str:
        """Return the expression of any text without some words, if they are tokens."""
        return f"{self._write_marked(words)}TEXT?"

    def define(self, name: str, expression: str) -> str:
        """Add a rule, and return its name."""
        self._rules[name] = f"{name}: {expression}"
        return name.split("[")[0]

    def literal(self, text: str) -> str:
        """Return the expression for exactly this text."""
        return " ".join(quote(part) if token is None else f"<[{token}]>" for part, token in self._split(text))

    def until(self, *endings: str, everything: bool = False) -> str:
        """Return the expression for any text that ends with the first of the endings.

        Args:
            everything: the text may contain reserved words.
        """
        found = []
        for ending in endings:
            name = f"until_{len(self._rules)}"
            known = next((rule for rule in self._rules.values() if rule.endswith(f"/(?s:.*)/ {quote(ending)}")), None)
            if known is None:
                self.define(f"{name}[lazy]", f"/(?s:.*)/ {quote(ending)}")
            found.append(name if known is None else known.split("[")[0])
            parts = list(self._split(ending))
            first = next((i for i, (_, token) in enumerate(parts) if token is not None), None)
            if first is not None:
                rest = " ".join(quote(part) if token is None else f"<[{token}]>" for part, token in parts[first:])
                found.append(f"TEXT? {rest}")
        left_out = {part for ending in endings for part, token in self._split(ending) if token is not None}
        marked = self._write_marked(left_out if everything else left_out | self._reserved)
        return f"{marked}({' | '.join(found)})"

    def _split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Split a text at added tokens; yield each part with its token or None."""
        at = 0
        for match in self._names.finditer(text) if self._names is not None else ():
            if match.start() > at:
                yield text[at : match.start()], None
            yield match[0], self._added[match[0]]
            at = match.end()
        if at < len(text) or not text:
            yield text[at:], None


def find_added_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the added tokens that are no text for llguidance: special ones, and tags."""
    added = tokenizer.added_tokens_decoder.items()
    return {str(entry): token for token, entry in added if entry.special or _is_tag(str(entry))}


def _is_tag(text: str) -> bool:
    return text.startswith("<") and text.endswith(">")


def format_ranges(tokens: Iterable[int]) -> str:
    """Format token ids as llguidance's ranges: `3-7,9`."""
    runs = [
        [token for _, token in run] for _, run in groupby(enumerate(sorted(tokens)), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def quote(text: str) -> str:
    """Return a string of lark."""
    return json.dumps(text, ensure_ascii=False)


def escape(text: str) -> str:
    """Escape literal text for a regular expression of lark."""
    return "".join(f"\\{character}" if character in "\\[]{}()|.*+?^$/" else character for character in text)

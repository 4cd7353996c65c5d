"""Promise: code and pages use the field's words; docstrings begin with one plain sentence."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import ROOT

#: Words of a private language, and the field's words in their place.
WORDS = {
    r"\bnobody\b|\bwhoever\b|\banybody\b|\beverybody\b": "say who: the client, the operator, another request",
    r"\bin vain\b": "say what happens: the request gets 503",
    r"\bbeside\b": "next to, with, per, in parallel with",
    r"\b(is|are|was|were|be|been|being) told\b": "reported, configured, known",
    r"\btold (of|by|to|no|what|how|that|when|from|apart)\b": "reported, configured, known",
    r"\btells? (of|what|whether|how|that|it|them|each|all|when|where|which|its|the|no|us)\b": "report, return, name",
    r"\bwrit(es|e|ing|ten) (a |the |any )?texts?\b|\btexts? (is|are|was|were) written\b": "generate",
    r"\bread(s|ing)? (a |the |any |each )?prompts?\b|\bprompts? (is|are|was|were) read\b": "prefill, compute",
    r"\beight bits\b|\bin eight bit\b": "int8",
    r"\btakeover\b|\btake[ns]? over\b": "replace, install",
    r"\b(in|of|with|without|its|whose|their) company\b": "other rows of the batch",
    r"\bas it is[,.;:)]": "unchanged",
    r"\bwhat (is|are|was|were) (written|read|kept|known|chosen|told|asked|given|left|there)\b": "name the thing",
}

#: Words that begin a docstring which describes by a question.
QUESTIONS = ("What", "Whether", "How", "Who", "Whoever", "Whose", "When", "Where", "Which", "That", "Those", "Why")

PACKAGES = ("hf_runtime", "runners", "commands")
MODULES = [ROOT / "service.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield getattr(node, "lineno", 1), text


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield docstrings and comments of a module, or the lines of a page outside of its code."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _docstrings(ast.parse(source))
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
        return
    fenced = False
    for number, line in enumerate(source.splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        if not fenced:
            yield number, re.sub(r"`[^`]*`", "", line)


@pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_private_words_are_absent(path: Path) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]!r}, say: {better}"
        for line, text in _prose(path)
        for pattern, better in WORDS.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_docstring_begins_with_one_short_sentence_that_is_no_question(path: Path) -> None:
    wrong = []
    for line, text in _docstrings(ast.parse(path.read_text(encoding="utf-8"))):
        first = text.split("\n")[0]
        if len(first) >= 90 or not first.endswith((".", ":")) or first.split()[0].rstrip(",:.") in QUESTIONS:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {first}")
    assert not wrong, "\n".join(wrong)

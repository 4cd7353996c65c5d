"""Markers in Markdown pages and the tables between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Function that returns the lines of a table for the words of its marker.
Table = Callable[[Sequence[str]], list[str]]

_BLOCK = re.compile(
    r"(?P<begin><!-- reference: (?P<name>[\w-]+)(?P<words>[^>]*?) -->\n).*?(?P<end><!-- /reference -->)", re.DOTALL
)


class PageError(Exception):
    """Error in a page or its markers. The message is one sentence without a period."""


def render(text: str, tables: Mapping[str, Table]) -> str:
    """Return a page with the current tables between its markers.

    Raises:
        PageError: a marker names a table that does not exist, or has no end.
    """

    def replace(match: re.Match[str]) -> str:
        if match["name"] not in tables:
            raise PageError(f"no table is called '{match['name']}', only {', '.join(tables)}")
        lines = tables[match["name"]](match["words"].split())
        return match["begin"] + "\n" + "\n".join(lines) + "\n\n" + match["end"]

    if text.count("<!-- reference:") != len(_BLOCK.findall(text)):
        raise PageError("a '<!-- reference: … -->' has no '<!-- /reference -->'")
    return _BLOCK.sub(replace, text)


def named(pages: Mapping[Path, str], table: str) -> list[str]:
    """Return the words of all markers of a table, in the order of the pages."""
    return [
        word for text in pages.values() for _, name, words, _ in _BLOCK.findall(text) if name == table
        for word in words.split()
    ]  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    return [_line(head), "|" + "---|" * len(head), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

"""Write the reference tables of docs/ from the code, or check that they are current."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from commands.write_reference.pages import PageError, named, render
from commands.write_reference.tables import TABLES, left_out

DOCS = Path(__file__).parents[2] / "docs"


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    The status is 1 if a marker is wrong, or if `--check` finds a stale page.
    """
    parser = argparse.ArgumentParser(prog="python -m commands.write_reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; name stale pages and exit with 1")
    only_check = parser.parse_args(arguments).check
    try:
        stale = stale_pages(DOCS)
    except PageError as error:
        print(f"Error: {error}.", file=sys.stderr)
        return 1
    for page, text in stale.items():
        if only_check:
            print(f"{page.relative_to(DOCS.parent)} is stale: run `make reference`.", file=sys.stderr)
        else:
            page.write_text(text, encoding="utf-8")
            print(f"{page.relative_to(DOCS.parent)} is updated.")
    return 1 if stale and only_check else 0


def stale_pages(docs: Path) -> Mapping[Path, str]:
    """Return the new text of each page whose tables differ from the code.

    Raises:
        PageError: a marker is wrong, or a setting or task is not in exactly one table.
    """
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(docs.rglob("*.md"))}
    written: dict[Path, str] = {}
    for page, text in pages.items():
        try:
            written[page] = render(text, TABLES)
        except PageError as error:
            raise PageError(f"{page.relative_to(docs.parent)}: {error}") from None
    missing = list(left_out(named(pages, "settings"), named(pages, "parameters")))
    if missing:
        raise PageError("; ".join(missing))
    return {page: text for page, text in written.items() if text != pages[page]}


if __name__ == "__main__":
    sys.exit(main())

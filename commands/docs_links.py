"""MkDocs hooks: check links of docs/ to other files of the repository, and show them on it.

Pages link to source files and pictures by relative paths, so that they read well without a build. The site has no
place for those files: pictures are copied to it, and any other link becomes the path as text.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# MkDocs counts warnings of its own loggers; a strict build fails on them.
_logger = logging.getLogger("mkdocs.hooks.docs_links")
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_PICTURES = "benchmarks/results"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the measured plots to the site."""
    root = Path(config.docs_dir).parent
    for picture in sorted((root / _PICTURES).rglob("*.png")):
        uri = picture.relative_to(root).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links that leave docs/; warn where the file does not exist."""
    folder = PurePosixPath("docs", page.file.src_uri).parent

    def replace(match: re.Match[str]) -> str:
        path = os.path.normpath(folder / match["target"])
        if path == "docs" or path.startswith("docs/"):
            return match[0]
        if not (Path(config.docs_dir).parent / path).exists():
            _logger.warning("Doc file '%s' links to '%s', which does not exist", page.file.src_uri, path)
        if match["picture"]:
            target = os.path.relpath(PurePosixPath("docs", path), folder)
            return f"![{match['text']}]({target})"
        text = match["text"].strip("`")
        return f"`{path}`" if path.endswith(text) else f"{match['text']} (`{path}`)"

    return _LINK.sub(replace, markdown)

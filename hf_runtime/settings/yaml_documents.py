"""YAML documents with the line number of every value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_runtime.settings.errors import SettingsError


@dataclass(frozen=True)
class Document:
    """One YAML document of a file.

    Attributes:
        content: the document as plain Python values.
        node: the same document with line numbers.
    """

    path: Path
    content: Any
    node: yaml.Node

    def position(self, location: Sequence[str | int]) -> str:
        """Return `file, line 7: ` for a location, or for its nearest existing parent."""
        return f"{self.path}, line {_find_node(self.node, location).start_mark.line + 1}: "


def read_documents(path: Path) -> list[Document]:
    """Read all documents of a file, or of a folder's .yaml and .yml files, sorted by name.

    Raises:
        SettingsError: a file cannot be read, is not YAML, or has a duplicate key.
    """
    try:
        files = [path] if not path.is_dir() else sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml"))
        texts = [file.read_text(encoding="utf-8") for file in files]
    except OSError as error:
        raise SettingsError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not text in UTF-8") from None
    return [document for file, text in zip(files, texts, strict=True) for document in _parse_documents(file, text)]


def _parse_documents(path: Path, text: str) -> Iterator[Document]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None, "this is a bug: check_node said that there is one"
            _refuse_duplicates(path, node)
            content = loader.construct_document(node)
            if content is not None:
                yield Document(path, content, node)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()


def _refuse_duplicates(path: Path, root: yaml.Node) -> None:
    """Raise `SettingsError` for a duplicate key.

    YAML forbids duplicate keys, but PyYAML uses the last one.
    """
    pending, visited = [root], set()
    while pending:
        node = pending.pop()
        if id(node) in visited:  # an alias
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                pending.append(value)
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    raise SettingsError(f"{path}, line {key.start_mark.line + 1}: {key.value} is defined twice")
                if isinstance(key, yaml.ScalarNode):
                    keys.add(key.value)


def _find_node(node: yaml.Node, location: Sequence[str | int]) -> yaml.Node:
    if not location:
        return node
    step, *rest = location
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == step:
                # Report the line of the name, not of the block below it.
                return _find_node(value, rest) if rest and isinstance(value, yaml.CollectionNode) else key
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return _find_node(node.value[step], rest)
    return node

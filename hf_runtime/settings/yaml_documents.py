"""YAML documents that know in which line everything stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_runtime.settings.errors import SettingsError


@dataclass(frozen=True)
class Document:
    """One document of a file.

    Attributes:
        content: as plain Python values.
        node: the same with line numbers.
    """

    path: Path
    content: Any
    node: yaml.Node

    def place(self, location: Sequence[str | int]) -> str:
        """`file, line 7: ` of what `location` leads to, or of what is nearest to it if it is not there."""
        return f"{self.path}, line {_find(self.node, location).start_mark.line + 1}: "


def read_documents(path: Path) -> list[Document]:
    """All documents of a file, or of the .yaml and .yml files of a folder in the order of their names.

    Raises:
        SettingsError: something cannot be read, is not YAML, or says a thing twice.
    """
    try:
        files = [path] if not path.is_dir() else sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml"))
        texts = [file.read_text(encoding="utf-8") for file in files]
    except OSError as error:
        raise SettingsError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not text in UTF-8") from None
    return [document for file, text in zip(files, texts, strict=True) for document in _parse(file, text)]


def _parse(path: Path, text: str) -> Iterator[Document]:
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
    """YAML forbids a key twice, and PyYAML takes the last."""
    waiting, visited = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in visited:  # an alias
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                waiting.append(value)
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    raise SettingsError(f"{path}, line {key.start_mark.line + 1}: {key.value} stands here twice")
                if isinstance(key, yaml.ScalarNode):
                    keys.add(key.value)


def _find(node: yaml.Node, location: Sequence[str | int]) -> yaml.Node:
    if not location:
        return node
    step, *rest = location
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == step:
                # The line of a name, not of the block below it.
                return _find(value, rest) if rest and isinstance(value, yaml.CollectionNode) else key
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return _find(node.value[step], rest)
    return node

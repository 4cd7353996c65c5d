"""Promise: exactly the files that serving reads are fetched, for every kind of tokenizer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import transformers

from runners.storage.files import choose_files, has_vocabulary

_MODELS = Path(transformers.__file__).parent / "models"


def _vocabularies() -> set[str]:
    """List the files that transformers' tokenizers read, from their modules.

    Importing all of the modules would take seconds.
    """
    found: set[str] = set()
    for module in _MODELS.glob("*/tokenization_*.py"):
        for node in ast.parse(module.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Dict):
                continue
            if any(isinstance(target, ast.Name) and target.id == "VOCAB_FILES_NAMES" for target in node.targets):
                values = [value.value for value in node.value.values if isinstance(value, ast.Constant)]
                found |= {value for value in values if isinstance(value, str)}
    return found


def test_every_vocabulary_that_transformers_reads_is_fetched() -> None:
    files = sorted(_vocabularies())
    assert {"bpe.codes", "prophetnet.tokenizer", "vocab.txt", "spiece.model", "source.spm"} <= set(files)
    assert choose_files([*files, "model.safetensors"]) == [*files, "model.safetensors"]


@pytest.mark.parametrize("name", ["tekken.json", "tokenizer.model.v3", "qwen.tiktoken", "vocab.bpe", "tokenizer.model"])
def test_files_that_replace_a_vocabulary_are_fetched(name: str) -> None:
    assert choose_files([name, "model.safetensors"]) == [name, "model.safetensors"]


def test_weights_of_other_libraries_and_documents_are_not_fetched() -> None:
    others = ["tf_model.h5", "flax_model.msgpack", "onnx/tokenizer.json", "model.onnx", "rust_model.ot", "README.md"]
    assert choose_files([*others, "config.json", "model.safetensors"]) == ["config.json", "model.safetensors"]


def test_a_folder_has_a_vocabulary_in_a_file_of_its_class_or_in_one_that_is_converted(tmp_path: Path) -> None:
    assert not has_vocabulary(tmp_path, ["vocab.txt"])
    (tmp_path / "tokenizer.model.v3").touch()
    assert has_vocabulary(tmp_path, ["vocab.txt"])
    (tmp_path / "tokenizer.model.v3").rename(tmp_path / "vocab.txt")
    assert has_vocabulary(tmp_path, ["vocab.txt"])

"""Choose the files of a repository, a bucket or a folder that serving needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage.custom_code import find_allowed_pipeline

#: Weights that transformers loads, best first. The names are exact, because a repository may contain the same weights
#: again as consolidated.safetensors, in another precision, or in a folder.
_WEIGHTS = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"),
    re.compile(r"adapter_model\.safetensors"),
    re.compile(r"adapter_model\.bin"),
    re.compile(r".+\.safetensors"),
)

#: Other files that serving reads; onnx/, tf_model.h5, flax_model.msgpack and the like are not among them.
_SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.py")

#: Vocabularies with other endings: transformers' `vocab_files_names`, other names that it accepts, and names that a
#: model's own code often reads.
_VOCABULARIES = (
    "*.model", "tokenizer.model.*", "*.spm", "*.codes", "*.bpe", "*.tokenizer", "*.tiktoken",
)  # fmt: skip

#: Files that transformers converts if the vocabulary itself is missing.
_CONVERTIBLE_VOCABULARIES = ("tokenizer.json", "tekken.json", "tokenizer.model.*", "tiktoken.model")


def choose_model_files(settings: ModelSettings, files: Iterable[str]) -> list[str]:
    """Return the files to fetch for a model.

    If a custom pipeline is allowed and present, these are all files, because it may read any of them.

    Raises:
        LoadError: as `choose_files`.
    """
    files = list(files)
    return choose_files(files, settings.gguf_file, everything=find_allowed_pipeline(settings) in files)


def choose_files(files: Iterable[str], gguf_file: str | None = None, *, everything: bool = False) -> list[str]:
    """Return the files to fetch out of all files of a source.

    Args:
        files: paths from the model's folder, with forward slashes.
        gguf_file: the operator's choice.
        everything: return all files, for a custom pipeline.

    Raises:
        LoadError: `gguf_file` does not exist, or there are several GGUF files and none is chosen.
    """
    files = list(files)
    if everything:
        return files
    weights = choose_weights(files, gguf_file)
    return [file for file in files if file in weights or _is_small_file(file)]


def choose_weights(files: Iterable[str], gguf_file: str | None = None) -> list[str]:
    """Return the weight files of the best format.

    Safetensors come before pickles; GGUF is used if it is named or if there are no other weights.

    Raises:
        LoadError: as `choose_files`.
    """
    files = list(files)
    top = [file for file in files if "/" not in file]
    ggufs = sorted(file for file in top if file.endswith(".gguf"))
    if gguf_file is not None:
        if gguf_file not in files:
            raise LoadError(
                f"GGUF_FILE: {gguf_file} is not in the repository; it holds {', '.join(ggufs) or 'no .gguf file'}."
            )
        return [gguf_file]
    for pattern in _WEIGHTS:
        if chosen := [file for file in top if pattern.fullmatch(file)]:
            return chosen
    if len(ggufs) > 1:
        raise LoadError(f"the repository holds several GGUF files; choose one with GGUF_FILE: {', '.join(ggufs)}.")
    return ggufs


def has_vocabulary(folder: Path, names: Iterable[str]) -> bool:
    """Return True if a folder contains a tokenizer's vocabulary.

    Args:
        names: the vocabulary files of the tokenizer's class.
    """
    existing = [path.name for path in folder.iterdir() if path.is_file()]
    return any(fnmatchcase(name, pattern) for name in existing for pattern in (*names, *_CONVERTIBLE_VOCABULARIES))


def _is_small_file(file: str) -> bool:
    path = PurePosixPath(file)
    patterns = (*_SMALL_FILES, *_VOCABULARIES)
    return any(fnmatchcase(path.name, pattern) for pattern in patterns) and "onnx" not in path.parts

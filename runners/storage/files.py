"""Which files of a repository, a bucket or a folder serving needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage.custom_code import allowed_pipeline

#: Weights that transformers loads, best first. Exact names, because a repository may hold the same weights again as
#: consolidated.safetensors, in another precision, or in a folder.
_WEIGHTS = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"),
    re.compile(r"adapter_model\.safetensors"),
    re.compile(r"adapter_model\.bin"),
    re.compile(r".+\.safetensors"),
)

#: What serving reads beside the weights; leaves out onnx/, tf_model.h5, flax_model.msgpack and the like.
_SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.py")

#: Vocabularies with other endings: transformers' `vocab_files_names`, what it finds beside those, and what code of a
#: model's own reads mostly.
_VOCABULARIES = (
    "*.model", "tokenizer.model.*", "*.spm", "*.codes", "*.bpe", "*.tokenizer", "*.tiktoken",
)  # fmt: skip

#: What transformers reads in place of a vocabulary that is not there, and converts.
_INSTEAD = ("tokenizer.json", "tekken.json", "tokenizer.model.*", "tiktoken.model")


def choose_for(settings: ModelSettings, files: Iterable[str]) -> list[str]:
    """The files to fetch for a model: of one kind of weights, or all if a pipeline of the model's own may read them.

    Raises:
        LoadError: as `choose_files`.
    """
    files = list(files)
    return choose_files(files, settings.gguf_file, everything=allowed_pipeline(settings) in files)


def choose_files(files: Iterable[str], gguf_file: str | None = None, *, everything: bool = False) -> list[str]:
    """The files to fetch, of all that a source holds.

    Args:
        files: paths from the model's folder, with forward slashes.
        gguf_file: the operator's choice.
        everything: all of them; a custom pipeline may read any.

    Raises:
        LoadError: `gguf_file` is not there, or there are several GGUF files and no choice.
    """
    files = list(files)
    if everything:
        return files
    weights = choose_weights(files, gguf_file)
    return [file for file in files if file in weights or _is_small(file)]


def choose_weights(files: Iterable[str], gguf_file: str | None = None) -> list[str]:
    """The files of one kind of weights: safetensors before pickles; GGUF if it is named or there is nothing else.

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
    """Return whether a folder holds a tokenizer's vocabulary.

    Args:
        names: the files that its class reads one from.
    """
    found = [path.name for path in folder.iterdir() if path.is_file()]
    return any(fnmatchcase(name, pattern) for name in found for pattern in (*names, *_INSTEAD))


def _is_small(file: str) -> bool:
    path = PurePosixPath(file)
    patterns = (*_SMALL_FILES, *_VOCABULARIES)
    return any(fnmatchcase(path.name, pattern) for pattern in patterns) and "onnx" not in path.parts

"""Read how a sentence-transformers model computes embeddings: pooling, prompt, length."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_runtime.contract.errors import LoadError
from hf_runtime.contract.tasks.feature_extraction import Pooling

_POOLING: Mapping[str, Pooling] = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last_token"}

#: Flags of the modes; sentence-transformers 5 and later saves the name of the mode instead.
_FLAGS: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """Settings of a model for one embedding per input.

    Attributes:
        pooling: None if the files do not name one, or if it is not supported here.
        normalize: vectors are scaled to length 1.
        prompt: prefix of every input unless the client chooses otherwise; usually empty.
        max_length: tokens per input that the model was trained for, special tokens included; None if not given.
        lower_case: inputs are converted to lower case before the tokenizer.
        unsupported: the feature in the files that is not supported here; None if all are.
    """

    pooling: Pooling | None = None
    normalize: bool = False
    prompt: str = ""
    max_length: int | None = None
    lower_case: bool = False
    unsupported: str | None = None


def read_sentence_embedding(folder: Path) -> SentenceEmbedding:
    """Read modules.json and the files that it names; without it, return the defaults.

    Raises:
        LoadError: a file is missing or damaged.
    """
    if not (folder / "modules.json").is_file():
        return SentenceEmbedding()
    try:
        return _read_modules(folder)
    except LoadError:
        raise
    except FileNotFoundError as error:
        missing = Path(error.filename).relative_to(folder)
        raise LoadError(
            f"{folder} has damaged sentence-transformers files ({missing}, which modules.json asks for, is not there); "
            "fetch it again."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise LoadError(f"{folder} has damaged sentence-transformers files (modules.json); fetch it again.") from None


def _read_modules(folder: Path) -> SentenceEmbedding:
    modules = [
        (_shorten_class(module["type"]), _join_inside(folder, module["path"]))
        for module in _read_json(folder / "modules.json")
    ]
    names = [name for name, _ in modules]
    paths = dict(modules)
    max_length, lower_case = _read_limits(paths.get("Transformer", folder))
    general = _read_optional_json(folder / "config_sentence_transformers.json")
    prompt = (general.get("prompts") or {}).get(general.get("default_prompt_name")) or ""
    pooling: Pooling | None = None
    unsupported = None
    if general.get("truncate_dim") is not None:
        unsupported = f"truncate_dim {general['truncate_dim']}"
    # Dropout does nothing outside training.
    match [name for name in names if name != "Dropout"]:
        case ["Transformer"]:
            pass
        case ["Transformer", "Pooling"] | ["Transformer", "Pooling", "Normalize"]:
            config = _read_json(paths["Pooling"] / "config.json")
            modes = _list_pooling_modes(config)
            pooling = _POOLING.get(modes[0]) if len(modes) == 1 else None
            if pooling is None:
                unsupported = f"pooling {' + '.join(modes)}"
            elif prompt and config.get("include_prompt") is False:
                unsupported = "pooling without the prompt"
        case _:
            unsupported = f"modules {' + '.join(names)}"
    return SentenceEmbedding(
        pooling=None if unsupported else pooling,
        normalize=unsupported is None and "Normalize" in names,
        prompt=prompt,
        max_length=max_length,
        lower_case=lower_case,
        unsupported=unsupported,
    )


def _shorten_class(path: str) -> str:
    """Return the class name of a module of sentence-transformers; other paths stay.

    The package of the class differs between versions of sentence-transformers.
    """
    return path.rsplit(".", 1)[-1] if path.startswith("sentence_transformers.") else path


def _join_inside(folder: Path, path: str) -> Path:
    inner = folder / path
    if ".." in inner.parts or not inner.is_relative_to(folder):
        raise ValueError("a module lies outside the model's folder")
    return inner


def _read_limits(transformer: Path) -> tuple[int | None, bool]:
    """Return maximal length and lower case from sentence_bert_config.json.

    Older models name the file after another encoder.
    """
    for path in sorted(transformer.glob("sentence_*_config.json")):
        config = _read_json(path)
        length = config.get("max_seq_length")
        return (int(length) if length is not None else None), bool(config.get("do_lower_case"))
    return None, False


def _list_pooling_modes(config: dict[str, Any]) -> list[str]:
    named = config.get("pooling_mode")
    if named is not None:
        return [named] if isinstance(named, str) else [str(mode) for mode in named]
    return [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_optional_json(path: Path) -> dict[str, Any]:
    return dict(_read_json(path)) if path.is_file() else {}

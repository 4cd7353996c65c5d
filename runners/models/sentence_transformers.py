"""What the files of a sentence-transformers model say of its embeddings: pooling, normalization, prompt, length."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import Pooling

_POOLING: Mapping[str, Pooling] = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last_token"}

#: One flag a mode, before sentence-transformers 5 wrote the mode's name.
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
    """How a model makes one vector of a text.

    Attributes:
        pooling: None if the files do not say, or say what is not computed here.
        normalize: whether vectors are scaled to length 1.
        prompt: put before every text unless the client chooses otherwise; mostly empty.
        max_length: tokens that the model was trained to read, special tokens included; None if not said.
        lower_case: texts are read in lower case, whatever the tokenizer does.
        unsupported: what the files ask for that is not computed here; None if everything is.
    """

    pooling: Pooling | None = None
    normalize: bool = False
    prompt: str = ""
    max_length: int | None = None
    lower_case: bool = False
    unsupported: str | None = None


def read_sentence_embedding(folder: Path) -> SentenceEmbedding:
    """Read modules.json and the files that it points to; a folder without it says nothing.

    Raises:
        LoadError: a file is missing or damaged.
    """
    if not (folder / "modules.json").is_file():
        return SentenceEmbedding()
    try:
        return _read(folder)
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


def _read(folder: Path) -> SentenceEmbedding:
    modules = [(_name(module["type"]), _inside(folder, module["path"])) for module in _json(folder / "modules.json")]
    names = [name for name, _ in modules]
    paths = dict(modules)
    max_length, lower_case = _reading(paths.get("Transformer", folder))
    general = _optional_json(folder / "config_sentence_transformers.json")
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
            config = _json(paths["Pooling"] / "config.json")
            modes = _modes(config)
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


def _name(path: str) -> str:
    """A module of sentence-transformers by its class; the package's inner layout changed more than once."""
    return path.rsplit(".", 1)[-1] if path.startswith("sentence_transformers.") else path


def _inside(folder: Path, path: str) -> Path:
    inner = folder / path
    if ".." in inner.parts or not inner.is_relative_to(folder):
        raise ValueError("a module lies outside the model's folder")
    return inner


def _reading(transformer: Path) -> tuple[int | None, bool]:
    """Maximal length and lower case, from sentence_bert_config.json; older models name it after another encoder."""
    for path in sorted(transformer.glob("sentence_*_config.json")):
        config = _json(path)
        length = config.get("max_seq_length")
        return (int(length) if length is not None else None), bool(config.get("do_lower_case"))
    return None, False


def _modes(config: dict[str, Any]) -> list[str]:
    named = config.get("pooling_mode")
    if named is not None:
        return [named] if isinstance(named, str) else [str(mode) for mode in named]
    return [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _optional_json(path: Path) -> dict[str, Any]:
    return dict(_json(path)) if path.is_file() else {}

"""Model folders that older releases of transformers can read as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def readable(model: Path, folder: Path, **generation: Any) -> Path:
    """Link a model's weights into a folder with the files that older transformers need.

    They contain what transformers 5 leaves out or has renamed.

    Args:
        model: a folder saved by transformers 5.
        folder: the folder to create.
        generation: additional fields of the generation config.
    """
    made = folder / "model"
    made.mkdir()
    kind = _read(model / "config.json")["model_type"]
    for file in model.iterdir():
        if file.name == "config.json":
            _write(made / file.name, _config(_read(file)))
        elif file.name == "tokenizer_config.json":
            _write(made / file.name, _tokenizer_config(_read(file), kind))
        elif file.name == "tokenizer.json":
            _write(made / file.name, _tokenizer(_read(file)))
        elif file.name == "generation_config.json":
            _write(made / file.name, _read(file) | generation)
        else:
            (made / file.name).symlink_to(file.resolve())
    return made


def _config(config: dict[str, Any]) -> dict[str, Any]:
    if "dtype" in config:
        config["torch_dtype"] = config["dtype"]
    if theta := (config.get("rope_parameters") or {}).get("rope_theta"):
        # If it is missing, another default is used without a message, and the text differs.
        config["rope_theta"] = theta
    if config["architectures"][0].endswith("ForSequenceClassification"):
        # Two labels of these names are the default, which is not saved.
        config.setdefault("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
        config.setdefault("label2id", {"LABEL_0": 0, "LABEL_1": 1})
    return config


def _tokenizer_config(config: dict[str, Any], kind: str) -> dict[str, Any]:
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        # Only generative models have one of these; prompts of different lengths must be aligned at their ends.
        config["padding_side"] = "left"
    if kind == "distilbert":
        # Such a model's forward accepts no other inputs, and a tokenizer of BERT returns one more.
        config["model_input_names"] = ["input_ids", "attention_mask"]
    return config


def _tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any]:
    merges = tokenizer["model"].get("merges")
    if merges and isinstance(merges[0], list):
        tokenizer["model"]["merges"] = [" ".join(pair) for pair in merges]
    return tokenizer


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

"""Adapters of the peft library: a few weights that change a base model, in a folder without a model of its own.

Source: https://huggingface.co/docs/peft
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings, Task
from runners.storage.checkpoint import ADAPTER_CONFIG

_TASKS: Mapping[str, Task] = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "FEATURE_EXTRACTION": "feature-extraction",
}
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
#: peft writes every weight below these two modules.
_PREFIX = "base_model.model."
#: Names of heads that have one row a label.
_LABEL_HEADS = ("classifier", "score", "classifier.out_proj")


def task_of_adapter(config: Mapping[str, Any]) -> Task | None:
    """What an adapter was trained for; None if it does not say."""
    return _TASKS.get(str(config.get("task_type")))


def read_adapter(folder: Path) -> Adapter | None:
    """The adapter in a folder; None if there is a whole model, or none at all.

    Some trainers write the base model's config.json beside an adapter, so the weights tell which it is.

    Raises:
        LoadError: its config is damaged, it has no weights, or it is of a kind that is not served.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file() or ((folder / "config.json").is_file() and _holds_whole_model(folder)):
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = str(config["peft_type"])
    except (ValueError, KeyError, TypeError):
        raise LoadError(f"{path} is damaged; fetch it again.") from None
    if "PROMPT" in kind or "PREFIX" in kind or kind in ("P_TUNING", "ADAPTION_PROMPT"):
        raise LoadError(f"{folder} is a {kind} adapter; LoRA and others that change weights are served.")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise LoadError(f"{folder} is an adapter without weights ({' or '.join(_WEIGHTS)}); fetch it again.")
    # peft imports it, whatever the model is, and it asks for a package that only its 4 bit could use.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return Adapter(folder, config)


def _holds_whole_model(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".gguf")}
    return any(name.startswith(("model", "pytorch_model")) or name.endswith(".gguf") for name in names)


@dataclass(frozen=True)
class Adapter:
    """An adapter on this machine, and its adapter_config.json."""

    folder: Path
    config: Mapping[str, Any]

    @property
    def has_tokenizer(self) -> bool:
        """Whether it brings a tokenizer, as one does that has new tokens."""
        return (self.folder / "tokenizer_config.json").is_file()

    def base_settings(self, settings: ModelSettings) -> ModelSettings:
        """Settings that fetch the base model: BASE_MODEL, else what the adapter was trained on.

        Raises:
            LoadError: neither says.
        """
        uri, revision = settings.base_model, None
        if uri is None:
            name = self.config.get("base_model_name_or_path")
            if not isinstance(name, str) or not name:
                raise LoadError(f"{settings.shown_uri} does not name its base model; set BASE_MODEL to its URI.")
            local = next((path for path in (self.folder / name, Path(name)) if path.is_dir()), None)
            if local is None and (name.startswith((".", "/", "~")) or name.count("/") > 1):
                raise LoadError(
                    f"{settings.shown_uri} was trained on {name}, a folder that is not here; set "
                    "BASE_MODEL to the URI of that model."
                )
            uri = str(local.resolve()) if local is not None else f"hf://{name}"
            revision = self.config.get("revision") if local is None else None
        return settings.model_copy(update={"storage_uri": uri, "revision": revision, "gguf_file": None})

    @property
    def head_options(self) -> dict[str, Any]:
        """Options of the base model's `from_pretrained` for a head that is the adapter's."""
        heads = [shape for name in _LABEL_HEADS if (shape := self._shapes.get(f"{name}.weight"))]
        return {"num_labels": heads[0][0], "ignore_mismatched_sizes": True} if heads else {}

    def still_missing(self, report: Mapping[str, Any]) -> set[str]:
        """Weights that neither the base model has in the shape of its config.json, nor the adapter."""
        other_shapes = {str(key[0]) for key in report["mismatched_keys"]}
        return (set(report["missing_keys"]) | other_shapes) - set(self._shapes)

    def apply(self, model: Any, *, merge: bool) -> Any:
        """The model with the adapter's changes, added to its weights or, if those are packed, beside them.

        Raises:
            Exception: whatever peft raises for an adapter that does not fit.
        """
        from peft import PeftModel  # it takes a second, and few models need it

        self._make_room(model)
        adapted = PeftModel.from_pretrained(model, str(self.folder), is_trainable=False)
        return adapted.merge_and_unload() if merge else adapted.get_base_model()

    def _make_room(self, model: Any) -> None:
        """Let the model have the tokens that the adapter was trained with, if it brings their embeddings."""
        table = model.get_input_embeddings().weight
        name = next((name for name, parameter in model.named_parameters() if parameter is table), None)
        shape = self._shapes.get(name) if name is not None else None
        if shape is not None and shape[0] != table.shape[0]:
            # What the new rows begin as does not matter: the adapter has all of them.
            model.resize_token_embeddings(shape[0], mean_resizing=False)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Names, as the base model has them, and shapes of the weights that the adapter brings whole."""
        from peft.utils.save_and_load import load_peft_weights

        weights = load_peft_weights(str(self.folder), device="cpu")
        return {name.removeprefix(_PREFIX): tuple(tensor.shape) for name, tensor in weights.items()}

"""Adapters of the peft library.

An adapter is a small set of weights that changes a base model. Its folder does not contain the base model.
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
from hf_runtime.contract.tasks import TASKS
from hf_runtime.settings import ModelSettings, Task
from runners.storage.checkpoint import ADAPTER_CONFIG

_TASKS: Mapping[str, str] = {spec.adapter_type: spec.name for spec in TASKS.values() if spec.adapter_type is not None}
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
#: peft saves every weight under this prefix.
_PREFIX = "base_model.model."
#: Names of heads that have one row per label.
_LABEL_HEADS = ("classifier", "score", "classifier.out_proj")


def read_adapter_task(config: Mapping[str, Any]) -> Task | None:
    """Return the task that an adapter was trained for; None if its config names none."""
    return _TASKS.get(str(config.get("task_type")))


def read_adapter(folder: Path) -> Adapter | None:
    """Return the adapter in a folder; None if the folder has a whole model, or no adapter.

    Some trainers save the base model's config.json next to an adapter. So the names of the weight files decide.

    Raises:
        LoadError: the config is damaged, the weights are missing, or this kind of adapter is not supported.
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
    # peft imports bitsandbytes for every model; it then warns about a package that only its 4-bit kernels use.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return Adapter(folder, config)


def _holds_whole_model(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".gguf")}
    return any(name.startswith(("model", "pytorch_model")) or name.endswith(".gguf") for name in names)


@dataclass(frozen=True)
class Adapter:
    """Adapter on this machine, with its adapter_config.json."""

    folder: Path
    config: Mapping[str, Any]

    @property
    def has_tokenizer(self) -> bool:
        """True if the adapter has its own tokenizer, as one with new tokens does."""
        return (self.folder / "tokenizer_config.json").is_file()

    def make_base_settings(self, settings: ModelSettings) -> ModelSettings:
        """Return the settings that fetch the base model.

        BASE_MODEL names it; without that, the adapter's config does.

        Raises:
            LoadError: neither of them names a base model that can be found.
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
        """Options of the base model's `from_pretrained` for a head that the adapter contains."""
        heads = [shape for name in _LABEL_HEADS if (shape := self._weight_shapes.get(f"{name}.weight"))]
        return {"num_labels": heads[0][0], "ignore_mismatched_sizes": True} if heads else {}

    def find_missing_weights(self, report: Mapping[str, Any]) -> set[str]:
        """Return names of weights that neither the base model nor the adapter contains.

        A base weight whose shape differs from its config.json counts as missing.
        """
        other_shapes = {str(key[0]) for key in report["mismatched_keys"]}
        return (set(report["missing_keys"]) | other_shapes) - set(self._weight_shapes)

    def apply(self, model: Any, *, merge: bool) -> Any:
        """Return the model with the adapter applied.

        Args:
            merge: add the changes to the weights; if False, as for packed weights, keep them as separate layers.

        Raises:
            Exception: peft's own error for an adapter that does not fit the model.
        """
        from peft import PeftModel  # imported here: it takes a second, and few models need it

        self._resize_embeddings(model)
        adapted = PeftModel.from_pretrained(model, str(self.folder), is_trainable=False)
        return adapted.merge_and_unload() if merge else adapted.get_base_model()

    def _resize_embeddings(self, model: Any) -> None:
        """Resize the token embeddings to the adapter's, if the adapter contains them."""
        table = model.get_input_embeddings().weight
        name = next((name for name, parameter in model.named_parameters() if parameter is table), None)
        shape = self._weight_shapes.get(name) if name is not None else None
        if shape is not None and shape[0] != table.shape[0]:
            # The initial values do not matter: the adapter replaces all rows.
            model.resize_token_embeddings(shape[0], mean_resizing=False)

    @cached_property
    def _weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the adapter's weights by the names that the base model uses."""
        from peft.utils.save_and_load import load_peft_weights

        weights = load_peft_weights(str(self.folder), device="cpu")
        return {name.removeprefix(_PREFIX): tuple(tensor.shape) for name, tensor in weights.items()}

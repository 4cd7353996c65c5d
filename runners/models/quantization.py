"""LOAD_IN_8BIT and LOAD_IN_4BIT: weights are quantized while they are loaded."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage.checkpoint import Checkpoint, read_local_config


def make_quantization_options(auto_class: Any, checkpoint: Checkpoint, settings: ModelSettings) -> dict[str, Any]:
    """Return options of `from_pretrained` that quantize the base model with bitsandbytes.

    The head keeps its precision, because it is small and its errors reach the result directly.

    Raises:
        LoadError: the checkpoint is quantized already.
    """
    if not (settings.load_in_8bit or settings.load_in_4bit):
        return {}
    own = (read_local_config(checkpoint) or {}).get("quantization_config") or {}
    method = "gguf" if checkpoint.gguf_file else own.get("quant_method")
    if method is not None:
        raise LoadError(
            f"{settings.shown_uri} is quantized already ({method}); leave out LOAD_IN_8BIT and LOAD_IN_4BIT."
        )
    # bitsandbytes warns in each layer at each forward pass that float32 inputs are cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    config_class: Any = BitsAndBytesConfig
    config = config_class(
        load_in_8bit=settings.load_in_8bit,
        load_in_4bit=settings.load_in_4bit,
        llm_int8_skip_modules=_list_head_layers(auto_class, checkpoint, settings) or None,
    )
    return {"quantization_config": config}


def release_mapped_files(model: PreTrainedModel) -> None:
    """Copy parameters that are views of a mapped file, so that the file leaves memory."""
    with torch.no_grad():
        for parameter in model.parameters():
            # Quantized parameters have their own classes and are copies already.
            if type(parameter) is torch.nn.Parameter and parameter.device.type == "cpu":
                parameter.data = parameter.data.clone()


def _list_head_layers(auto_class: Any, checkpoint: Checkpoint, settings: ModelSettings) -> list[str]:
    """Return the names of linear layers outside the base model, from a model without weights."""
    config = AutoConfig.from_pretrained(
        checkpoint.folder, gguf_file=checkpoint.gguf_file, trust_remote_code=settings.trust_remote_code
    )
    with torch.device("meta"):
        model: PreTrainedModel = auto_class.from_config(config, trust_remote_code=settings.trust_remote_code)
    if model.base_model is model:
        return []
    prefix = f"{model.base_model_prefix}."
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith(prefix)
    ]

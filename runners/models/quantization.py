"""LOAD_IN_8BIT and LOAD_IN_4BIT: weights made smaller while they are loaded."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage.checkpoint import Checkpoint, local_config


def quantization(auto_class: Any, checkpoint: Checkpoint, settings: ModelSettings) -> dict[str, Any]:
    """Options of `from_pretrained`: bitsandbytes for the body; the head, small and decisive, keeps its precision.

    Raises:
        LoadError: the checkpoint is quantized already.
    """
    if not (settings.load_in_8bit or settings.load_in_4bit):
        return {}
    own = (local_config(checkpoint) or {}).get("quantization_config") or {}
    method = "gguf" if checkpoint.gguf_file else own.get("quant_method")
    if method is not None:
        raise LoadError(
            f"{settings.shown_uri} is quantized already ({method}); leave out LOAD_IN_8BIT and LOAD_IN_4BIT."
        )
    # It warns once a layer and forward pass that float32 inputs are cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    config_class: Any = BitsAndBytesConfig
    config = config_class(
        load_in_8bit=settings.load_in_8bit,
        load_in_4bit=settings.load_in_4bit,
        llm_int8_skip_modules=_head(auto_class, checkpoint, settings) or None,
    )
    return {"quantization_config": config}


def release_files(model: PreTrainedModel) -> None:
    """Copy what is not quantized: it is a view of the file, and one such view keeps all of the file in memory."""
    with torch.no_grad():
        for parameter in model.parameters():
            # Quantized ones are of classes of their own.
            if type(parameter) is torch.nn.Parameter and parameter.device.type == "cpu":
                parameter.data = parameter.data.clone()


def _head(auto_class: Any, checkpoint: Checkpoint, settings: ModelSettings) -> list[str]:
    """Names of the linear layers behind the base model, found on a model without weights."""
    config = AutoConfig.from_pretrained(
        checkpoint.folder, gguf_file=checkpoint.gguf_file, trust_remote_code=settings.trust_remote_code
    )
    with torch.device("meta"):
        model: PreTrainedModel = auto_class.from_config(config, trust_remote_code=settings.trust_remote_code)
    if model.base_model is model:
        return []
    body = f"{model.base_model_prefix}."
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith(body)
    ]

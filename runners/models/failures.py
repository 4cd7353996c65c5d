"""Translate the libraries' errors about a model into a LoadError for the operator."""

from __future__ import annotations

import re
from json import JSONDecodeError
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings

#: Pattern of an error message of `from_pretrained`, and the end of the sentence for the operator.
_SENTENCES: tuple[tuple[str, str], ...] = (
    (r"trust_remote_code", "brings code of its own; set TRUST_REMOTE_CODE=true if you trust it"),
    (r"configuration class .*?(\w+)'?>", "({0}) cannot do {task}; choose another TASK or model"),
    (r"has model type `(.+?)`", f"is of the type {{0}}, which transformers {transformers.__version__} does not know"),
    (r"`model_type` key", "does not say in config.json what type of model it is; it is not a transformers model"),
    (r"not a valid JSON file", "has a damaged JSON file; fetch it again"),
    (r"no file named model\.safetensors", "has no weights (model.safetensors or pytorch_model.bin)"),
    (r"ignore_mismatched_sizes", "has weights of other shapes than its config.json says"),
    (r"^Weights only load failed", "has pickled weights that could run code; use a copy of the model as safetensors"),
    (r"PytorchStreamReader", "has a damaged pytorch_model.bin; fetch it again"),
    (r"No such file or directory: .*?([\w.-]+\.(?:safetensors|bin))'?$", "lacks its file {0}; fetch it again"),
    (r"^'(?:weight_map|metadata)'$", "has a damaged index of its weights (*.index.json); fetch it again"),
    (
        r"device_map as a string",
        "cannot be placed by DEVICE_MAP={device_map}, which is neither auto, balanced, sequential nor a device",
    ),
    (
        r"provide an `offload_folder`|modules are dispatched on the CPU",
        "does not fit where DEVICE_MAP={device_map} puts it; use a smaller TORCH_DTYPE, LOAD_IN_8BIT or LOAD_IN_4BIT",
    ),
    (
        r"^FlashAttention|attn_implementation|an attention implementation|`kernels` is either",
        "cannot be computed with ATTN_IMPLEMENTATION={attention} here; leave it out, or install what it needs",
    ),
    (
        r"[Ll]oading an? (GPTQ|AWQ)",
        "is a {0} checkpoint, which needs the packages gptqmodel and optimum and a GPU; install them",
    ),
    (
        r"pip install ([a-z][\w-]+)",
        "needs the package {0}, which is not installed; install it, or choose another model",
    ),
    (r"A valid HQQ version", "needs the package hqq, which is not installed; install it, or choose another model"),
    (r"[Nn]o GPU|GPU is required|requires an? (?:\w+ )?GPU", "is in a format that needs a GPU, and none is here"),
    (r"size mismatch for", "has an adapter that was made for another base model; name the right one as BASE_MODEL"),
    (
        r"instantiate the backend tokenizer",
        "has no tokenizer that can be read: tokenizer.json is missing, or the package for its older files",
    ),
)


def make_load_error(error: Exception, settings: ModelSettings) -> LoadError:
    """Return an error with one sentence: what is wrong with the model and what to do."""
    uri = settings.shown_uri
    text = " ".join(str(error).split())
    match error:
        case SafetensorError():
            return LoadError(f"{uri} has a damaged safetensors file; fetch it again.")
        case JSONDecodeError():
            return LoadError(f"{uri} has a damaged JSON file; fetch it again.")
        case torch.OutOfMemoryError() | MemoryError():
            return LoadError(f"{uri} does not fit in memory; use a smaller TORCH_DTYPE, LOAD_IN_8BIT or LOAD_IN_4BIT.")
    if (unreadable_file := _find_unreadable_file(error, text)) is not None:
        return LoadError(f"{uri}: {unreadable_file} may not be read by the user that this server runs as (chmod a+r).")
    for pattern, sentence in _SENTENCES:
        if found := re.search(pattern, text):
            problem = sentence.format(
                *found.groups(),
                task=settings.task, attention=settings.attn_implementation, device_map=settings.device_map,
            )  # fmt: skip
            return LoadError(f"{uri} {problem}.")
    # Only the first sentence says what happened; the rest is advice for programmers.
    short = re.split(r"(?<=[.!?])\s(?=[A-Z])", text, maxsplit=1)[0][:300].rstrip(".!?")
    return LoadError(f"{uri} could not be loaded: {short or type(error).__name__}.")


def _find_unreadable_file(error: Exception, text: str) -> str | None:
    """Return the name of a file that exists but may not be read; None if that is not the cause.

    safetensors reports such a file as missing.
    """
    if isinstance(error, PermissionError) and error.filename is not None:
        return Path(error.filename).name
    found = re.search(r"No such file or directory: '?(/.*?)'?$", text)
    return Path(found[1]).name if found is not None and Path(found[1]).exists() else None

"""Load options to `from_pretrained`, and what a broken or foreign model raises there."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from loading import LoadError
from loading.storage import Checkpoint
from settings import ModelSettings

logger = logging.getLogger(__name__)

#: Tokenizers without a limit of their own say a number like 1e30.
_NO_LIMIT = 10**9

#: What `from_pretrained` says of a model's files, and the same in the operator's words.
_KNOWN: tuple[tuple[str, str], ...] = (
    (r"trust_remote_code", "brings code of its own; set TRUST_REMOTE_CODE=true if you trust it"),
    (r"configuration class .*?(\w+)'?>", "({0}) cannot do {task}; choose another TASK or model"),
    (r"has model type `(.+?)`", f"is of the type {{0}}, which transformers {transformers.__version__} does not know"),
    (r"`model_type` key", "does not say in config.json what type of model it is; it is not a transformers model"),
    (r"not a valid JSON file", "has a damaged JSON file; fetch it again"),
    (r"no file named model\.safetensors", "has no weights (model.safetensors or pytorch_model.bin)"),
    (r"ignore_mismatched_sizes", "has weights of other shapes than its config.json says"),
    (r"^Weights only load failed", "has pickled weights that could run code; use a copy of the model as safetensors"),
    (r"PytorchStreamReader", "has a damaged pytorch_model.bin; fetch it again"),
    (
        r"instantiate the backend tokenizer",
        "has no tokenizer that can be read: tokenizer.json is missing, or the package for its older files",
    ),
)


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model in evaluation mode on its device, with its tokenizer.

    Attributes:
        max_length: tokens that the model can read at once, special tokens included; None if it has no limit.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None


def prepare_torch(settings: ModelSettings) -> None:
    """Settings that hold for the whole process of a runner."""
    transformers.logging.set_verbosity(transformers.logging.log_levels[settings.transformers_verbosity])
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    if settings.cuda_memory_fraction is not None and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(settings.cuda_memory_fraction)


def load_pretrained(
    auto_class: Any, checkpoint: Checkpoint, settings: ModelSettings, *, new_head: bool = False
) -> Pretrained:
    """Load model and tokenizer of a checkpoint.

    Args:
        auto_class: the AutoModel class of the task.
        new_head: accept a checkpoint without the task's head; its weights are then random, and a warning says so.

    Raises:
        LoadError: one sentence for every failure that `from_pretrained` has.
    """
    try:
        tokenizer = _load_tokenizer(checkpoint, settings)
        model, report = auto_class.from_pretrained(
            checkpoint.folder,
            output_loading_info=True,
            gguf_file=checkpoint.gguf_file,
            trust_remote_code=settings.trust_remote_code,
            **_placement(settings),
            **_quantization(auto_class, checkpoint, settings),
        )
    except LoadError:
        raise
    except Exception as error:
        logger.debug("loading %s failed", settings.storage_uri, exc_info=True)
        raise _explained(error, settings) from error
    _check_direction(model, settings)
    _check_weights(model, set(report["missing_keys"]), new_head, settings)
    if settings.device_map is None and not (settings.load_in_8bit or settings.load_in_4bit):
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.eval()
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return Pretrained(model, tokenizer, _max_length(model, tokenizer))


def _load_tokenizer(checkpoint: Checkpoint, settings: ModelSettings) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint.folder, gguf_file=checkpoint.gguf_file, trust_remote_code=settings.trust_remote_code
    )
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if checkpoint.gguf_file is None and not any((checkpoint.folder / file).is_file() for file in files if file):
        # transformers would go on with an empty vocabulary and answer nonsense.
        raise LoadError(f"{settings.storage_uri} has no tokenizer files ({', '.join(sorted(files))}).")
    # Padding is done once for a whole batch, from rows tokenized alone: not what the warning warns of.
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
    return tokenizer


def _placement(settings: ModelSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": _dtype(settings)}
    if settings.device_map is not None:
        options["device_map"] = settings.device_map
    return options


def _quantization(auto_class: Any, checkpoint: Checkpoint, settings: ModelSettings) -> dict[str, Any]:
    """bitsandbytes for the body of the model; its head, small and decisive, keeps its precision."""
    if not (settings.load_in_8bit or settings.load_in_4bit):
        return {}
    # It warns once a layer and forward pass that float32 inputs are cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    config_class: Any = BitsAndBytesConfig
    config = config_class(
        load_in_8bit=settings.load_in_8bit,
        load_in_4bit=settings.load_in_4bit,
        llm_int8_skip_modules=_head(auto_class, checkpoint, settings) or None,
    )
    return {"quantization_config": config}


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


def _dtype(settings: ModelSettings) -> Any:
    if settings.torch_dtype is None:
        return "auto" if torch.cuda.is_available() else torch.float32
    return "auto" if settings.torch_dtype == "auto" else getattr(torch, settings.torch_dtype)


def _check_direction(model: PreTrainedModel, settings: ModelSettings) -> None:
    """A masked language model has all weights of a generating one, and would write nonsense with them."""
    masked = any(name.endswith("ForMaskedLM") for name in model.config.architectures or [])
    if settings.task == "text-generation" and masked and not getattr(model.config, "is_decoder", False):
        raise LoadError(
            f"{settings.storage_uri} was trained to fill in masks, not for text-generation; "
            "choose another TASK or model."
        )


def _check_weights(model: PreTrainedModel, missing: set[str], new_head: bool, settings: ModelSettings) -> None:
    """A weight that the checkpoint lacks is random: refuse, unless only an unused or a new head is concerned."""
    missing = {key for key in missing if not key.split(".", 1)[-1].startswith("pooler.") and "pooler." not in key}
    if not missing:
        return
    shown = ", ".join(sorted(missing)[:3])
    prefix = f"{model.base_model_prefix}."
    if new_head and not any(key.startswith(prefix) for key in missing):
        logger.warning(
            "%s has no %s head: %s are random, answers mean nothing until it is fine-tuned.",
            settings.storage_uri, settings.task, shown,
        )  # fmt: skip
        return
    raise LoadError(
        f"{settings.storage_uri} lacks weights that {type(model).__name__} needs ({shown}): "
        f"it was not made for {settings.task}; choose another TASK or model."
    )


def _max_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    limits = [tokenizer.model_max_length]
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - _reserved_positions(model, positions))
    smallest = min(limits)
    return smallest if smallest < _NO_LIMIT else None


def _reserved_positions(model: PreTrainedModel, positions: int) -> int:
    """RoBERTa and its kin count positions from behind the padding index, so their last ones cannot be reached."""
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and isinstance(module, torch.nn.Embedding)
            and module.num_embeddings == positions
            and module.padding_idx is not None
        ):
            return module.padding_idx + 1
    return 0


def _explained(error: Exception, settings: ModelSettings) -> LoadError:
    uri = settings.storage_uri
    text = " ".join(str(error).split())
    match error:
        case SafetensorError():
            return LoadError(f"{uri} has a damaged safetensors file; fetch it again.")
        case JSONDecodeError():
            return LoadError(f"{uri} has a damaged JSON file; fetch it again.")
        case torch.OutOfMemoryError() | MemoryError():
            return LoadError(f"{uri} does not fit in memory; use a smaller TORCH_DTYPE, LOAD_IN_8BIT or LOAD_IN_4BIT.")
    for pattern, sentence in _KNOWN:
        if found := re.search(pattern, text):
            return LoadError(f"{uri} {sentence.format(*found.groups(), task=settings.task)}.")
    # The first sentence says what happened, the rest mostly what a programmer could do about it.
    short = re.split(r"(?<=[.!?])\s(?=[A-Z])", text, maxsplit=1)[0][:300].rstrip(".!?")
    return LoadError(f"{uri} could not be loaded: {short or type(error).__name__}.")

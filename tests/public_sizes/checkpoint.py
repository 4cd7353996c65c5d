"""Checkpoints of public sizes, with fixed random weights and a word for every token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D

from hf_runtime.settings import Task
from tests.public_sizes.models import PublicModel, Tokens

AUTO_CLASSES: Mapping[Task, Any] = {
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
    "text-generation": AutoModelForCausalLM,
    "text2text-generation": AutoModelForSeq2SeqLM,
    "fill-mask": AutoModelForMaskedLM,
    "feature-extraction": AutoModel,
}

#: Length of the block of random values for all weights; a prime, so that no two rows of a matrix are alike.
_BLOCK = 1_000_003

#: Spread of embeddings; small relative to the layers' output, else a tied head would repeat one token for ever.
_EMBEDDING = 0.02

#: Families that multiply embeddings by the root of their size.
_TIMES_ROOT = ("gemma2", "gemma3_text")

#: Families that do not divide attention scores by the root of a head's size.
_UNDIVIDED = ("t5", "mt5", "gpt_neo")

#: Config fields with the number of layers.
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")


def make(model: PublicModel, folder: Path) -> Path:
    """Save a model's checkpoint, which is always the same.

    Returns:
        The folder.
    """
    config = make_config(model)
    with torch.device("meta"):
        made: PreTrainedModel = AUTO_CLASSES[model.task].from_config(config)
    tied = model.sizes.get("tie_word_embeddings")
    if tied is False:
        _give_own_head(made)
    _fill(made)
    made.save_pretrained(folder)
    if tied is not None:
        # T5's class saves all models as tied and infers the truth from the weights; it divides by a factor only where
        # this field, which public files contain, is true.
        change_config(folder, tie_word_embeddings=tied)
    tokenizer(model.tokens, config.vocab_size, _longest(config)).save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Change fields of a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _give_own_head(model: PreTrainedModel) -> None:
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    head.weight = nn.Parameter(torch.empty_like(head.weight))


def make_config(model: PublicModel) -> Any:
    """Return a model's config with as few layers as it needs."""
    own = model.config().to_dict()
    layers = {name: model.layers for name in _LAYERS if name in own}
    if "num_decoder_layers" in own:
        layers["num_decoder_layers"] = model.layers
    layers = {name: number for name, number in layers.items() if model.config.attribute_map.get(name) not in layers}
    return model.config(**{**layers, **_special_ids(model.tokens, own), **model.sizes})


def _special_ids(tokens: Tokens, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids of the config's special tokens, as the tokenizer has them."""
    return {f"{role}_token_id": number for role, number in tokens.ids.items() if f"{role}_token_id" in own}


def _longest(config: Any) -> int:
    positions: int | None = getattr(config, "max_position_embeddings", None)
    return positions or 2048


def tokenizer(tokens: Tokens, vocabulary: int, longest: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer with the words w0, w1, … by id; special tokens are <role>."""
    names: dict[int, str] = {}
    for role, number in tokens.ids.items():
        names.setdefault(number, f"<{role}>" if not tokens.byte_level else "<|endoftext|>")
    unknown = names[tokens.ids.get("unk", tokens.ids.get("eos", 0))]
    known = {**dict(enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()) if tokens.byte_level else ())), **names}
    words = {known.get(number, f"w{number}"): number for number in range(vocabulary)}
    if tokens.byte_level:
        fast = Tokenizer(models.BPE(words, []))
        fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        fast = Tokenizer(models.WordLevel(words, unk_token=unknown))
        fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names.values()])

    def template(parts: tuple[str | int, ...]) -> str:
        second = False
        spelled = []
        for part in parts:
            second |= part == "B"
            name = f"${part}" if part in ("A", "B") else _spelled(part, tokens, names)
            spelled.append(f"{name}:{int(second)}")
        return " ".join(spelled)

    around = [part for part in (*tokens.single, *tokens.pair) if part not in ("A", "B")]
    numbers = {_spelled(part, tokens, names): tokens.ids[part] if isinstance(part, str) else part for part in around}
    fast.post_processor = processors.TemplateProcessing(
        single=template(tokens.single), pair=template(tokens.pair), special_tokens=list(numbers.items())
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if tokens.segments else ["input_ids", "attention_mask"]
    roles: dict[str, Any] = {f"{role}_token": names[number] for role, number in tokens.ids.items()}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast, model_max_length=longest, model_input_names=inputs, **{"unk_token": unknown, **roles}
    )


def _spelled(part: str | int, tokens: Tokens, names: Mapping[int, str]) -> str:
    number = tokens.ids[part] if isinstance(part, str) else part
    return names.get(number, f"w{number}")


@torch.no_grad()
def _fill(model: PreTrainedModel) -> None:
    """Assign weights to a model on the device "meta"."""
    block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0))
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    table: Any = model.get_input_embeddings()
    for name, module in model.named_modules():
        for own, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type != "meta":
                continue  # it is shared and already filled
            center, spread = _distribution(model.config, name, module, own, parameter)
            if own == "weight" and parameter is getattr(table, "weight", None):
                spread = _table_spread(model.config)
            elif own == "weight" and module is head:
                spread *= 3
            filled = nn.Parameter(_random(parameter.shape, f"{name}.{own}", block, center, spread), requires_grad=False)
            _put(model, parameter, filled)
        for own, buffer in list(module.named_buffers(recurse=False)):
            if own not in module._non_persistent_buffers_set:
                setattr(module, own, torch.zeros(buffer.shape, dtype=buffer.dtype))


def _put(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Assign a parameter everywhere, because some are shared."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter is old:
                setattr(module, name, new)


def _distribution(config: Any, path: str, module: nn.Module, name: str, parameter: torch.Tensor) -> tuple[float, float]:
    """Return the mean and the spread of a parameter's values."""
    kind = type(module).__name__
    if isinstance(module, nn.Embedding):
        return 0.0, 0.3
    if parameter.ndim == 1:
        scales = name == "weight" and not ("Gemma" in kind and "RMSNorm" in kind)
        # BLOOM norms its embeddings, which would otherwise be large relative to the layers' output.
        size = _EMBEDDING if path.endswith("word_embeddings_layernorm") else 1.0
        return float(scales) * size, 0.1 * size
    inputs = parameter.shape[0] if isinstance(module, Conv1D) else parameter.shape[-1]
    spread = float(inputs**-0.5)
    if config.model_type in _UNDIVIDED and path.rpartition(".")[2] in ("q", "q_proj"):
        size = getattr(config, "d_kv", None) or config.hidden_size // config.num_attention_heads
        spread *= size**-0.5
    return 0.0, spread


def _table_spread(config: Any) -> float:
    size = getattr(config, "d_model", None) or config.hidden_size
    if config.model_type in _TIMES_ROOT or getattr(config, "scale_embedding", False):
        return float(_EMBEDDING * size**-0.5)
    return float(_EMBEDDING / getattr(config, "embedding_multiplier", 1))


def _random(shape: torch.Size, name: str, block: torch.Tensor, center: float, spread: float) -> torch.Tensor:
    """Return values of the block from an offset that the name determines."""
    numbers = torch.empty(shape.numel())
    scaled = block.roll(crc32(name.encode()) % _BLOCK).mul_(spread).add_(center)
    for start in range(0, len(numbers), _BLOCK):
        part = numbers[start : start + _BLOCK]
        part.copy_(scaled[: len(part)])
    return numbers.view(shape)

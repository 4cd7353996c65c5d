"""Small checkpoints of any architecture in transformers' mappings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)
from transformers.models.auto import modeling_auto
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from hf_runtime.settings import Task
from tests.tiny import wordpiece_tokenizer

#: Special tokens of a small model.
CONTEXT = 160

#: AutoModel class of each task, and the mapping that names its architectures.
CLASSES: Mapping[Task, tuple[Any, Mapping[str, Any]]] = {
    "text-classification": (
        AutoModelForSequenceClassification, modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    ),
    "token-classification": (
        AutoModelForTokenClassification, modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    ),
    "question-answering": (
        AutoModelForQuestionAnswering, modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    ),
    "fill-mask": (AutoModelForMaskedLM, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "feature-extraction": (AutoModel, modeling_auto.MODEL_MAPPING_NAMES),
    "text-generation": (AutoModelForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "text2text-generation": (AutoModelForSeq2SeqLM, modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
}  # fmt: skip

#: Values of a config that make a model small, by the names that architectures have for them.
_SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embedding_size", "n_embed"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers", "max_window_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_heads", "n_head", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "hidden_dim", "ffn_dim"), 64),
    **dict.fromkeys(("n_inner", "d_inner", "moe_intermediate_size", "ffn_hidden_size"), 64),
    **dict.fromkeys(("shared_expert_intermediate_size",), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_encoder_position_embeddings"), CONTEXT),
    **dict.fromkeys(("max_decoder_position_embeddings", "max_seq_len", "n_ctx"), CONTEXT),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "qk_rope_head_dim", "v_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    "kv_lora_rank": 8, "q_lora_rank": 8, "initializer_factor": 3.0, "word_embed_proj_dim": 32,
}  # fmt: skip

#: Layer types of a model that mixes two of them.
_LINEAR = ["linear_attention", "full_attention"]

#: Additional values for single architectures, to be small or complete.
_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
    "bigbird_pegasus": {"block_size": 4, "num_random_blocks": 1},
    "codegen": {"rotary_dim": 8},
    "convbert": {"conv_kernel_size": 9},
    "esmc": {"num_key_value_heads": 4},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "architectures": ["FunnelModel"]},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"]},
    "glm4_moe_lite": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 0},
    "kimi_linear": {"num_key_value_heads": 4, "layer_types": _LINEAR},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "led": {"attention_window": 8},
    "lilt": {"hidden_size": 24, "channel_shrink_ratio": 2},
    "longformer": {"attention_window": 8, "sep_token_id": 3},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "minicpm3": {"num_key_value_heads": 4},
    "mra": {"type_vocab_size": 2},
    "qwen3_5_moe_text": {"layer_types": _LINEAR},
    "qwen3_5_text": {"layer_types": _LINEAR},
    "qwen3_next": {"layer_types": _LINEAR},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": [8, 24], "axial_pos_shape": [8, CONTEXT // 8], "hash_seed": 0},
    "xlnet": {"d_head": 8},
    "xmod": {"default_language": "en_XX"},
    "yoso": {"type_vocab_size": 2},
    "zaya": {"num_experts_per_tok": 1},
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with all special tokens that some architecture needs."""
    made = wordpiece_tokenizer(CONTEXT)
    made.bos_token, made.eos_token = "[CLS]", "[SEP]"
    return made


@cache
def architectures(task: Task) -> tuple[str, ...]:
    """Return model types that transformers maps for a task and has a text tokenizer for."""
    _, mapping = CLASSES[task]
    return tuple(sorted(kind for kind in mapping if TOKENIZER_MAPPING_NAMES.get(kind) and _is_text_alone(kind)))


def small_config(model_type: str, task: Task) -> Any:
    """Return a config of few and narrow layers.

    Raises:
        Exception: the config's class cannot be built so.
    """
    known = AutoConfig.for_model(model_type).to_dict()
    words = tokenizer()
    changes: dict[str, Any] = {name: value for name, value in _SMALL.items() if name in known}
    changes |= {
        "vocab_size": len(words), "pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id,
        "bos_token_id": words.bos_token_id, **_CHANGES.get(model_type, {}),
    }  # fmt: skip
    if task in ("text-classification", "token-classification"):
        changes["num_labels"] = 3
    if model_type == "reformer":
        changes["is_decoder"] = task == "text-generation"
    if known.get("is_encoder_decoder"):
        changes["decoder_start_token_id"] = words.bos_token_id
    return AutoConfig.for_model(model_type, **changes)


def save_small(folder: Path, model_type: str, task: Task) -> Path:
    """Save a small checkpoint with fixed random weights.

    Raises:
        Exception: the architecture cannot be built so.
    """
    config = small_config(model_type, task)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLASSES[task][0].from_config(config)
    model.save_pretrained(folder)
    made = tokenizer()
    if model_type in ("longformer", "led"):
        # A pair has three separators, as RoBERTa's has.
        backend: Any = made.backend_tokenizer
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    if not _takes(model, "token_type_ids"):
        made.model_input_names = ["input_ids", "attention_mask"]
    made.save_pretrained(folder)
    return folder


def _takes(model: Any, name: str) -> bool:
    return name in model.forward.__code__.co_varnames


def _is_text_alone(model_type: str) -> bool:
    try:
        return not AutoConfig.for_model(model_type).sub_configs
    except Exception:
        return False


def every() -> Iterator[tuple[Task, str]]:
    """Yield each task with each of its architectures."""
    return ((task, kind) for task in CLASSES for kind in architectures(task))

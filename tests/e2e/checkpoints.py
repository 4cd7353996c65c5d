"""One small checkpoint per task, as model folders, and InferenceServices that serve them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.tiny import CHAT_TEMPLATE, bert_config, byte_level_tokenizer, save, wordpiece_tokenizer

ENTITIES = ["O", "B-ORG", "I-ORG", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def text_classification(folder: Path) -> Path:
    """Save a model with the labels of the seed's example."""
    tokenizer = wordpiece_tokenizer()
    labels = {0: "NEGATIVE", 1: "POSITIVE"}
    return save(folder, BertForSequenceClassification, bert_config(tokenizer, id2label=labels), tokenizer)


def token_classification(folder: Path) -> Path:
    """Save a model with the labels of CoNLL-2003."""
    tokenizer = wordpiece_tokenizer()
    labels = dict(enumerate(ENTITIES))
    return save(folder, BertForTokenClassification, bert_config(tokenizer, id2label=labels), tokenizer)


def question_answering(folder: Path) -> Path:
    """Save a model with a span head."""
    tokenizer = wordpiece_tokenizer()
    return save(folder, BertForQuestionAnswering, bert_config(tokenizer), tokenizer)


def fill_mask(folder: Path) -> Path:
    """Save a masked language model."""
    tokenizer = wordpiece_tokenizer()
    return save(folder, BertForMaskedLM, bert_config(tokenizer), tokenizer)


def feature_extraction(folder: Path) -> Path:
    """Save a sentence-transformers model with mean pooling, then normalization."""
    tokenizer = wordpiece_tokenizer()
    save(folder, BertModel, bert_config(tokenizer), tokenizer)
    modules = ["Transformer", "Pooling", "Normalize"]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": i,
                    "name": f"{i}",
                    "path": f"{i}_{kind}" if i else "",
                    "type": f"sentence_transformers.models.{kind}",
                }
                for i, kind in enumerate(modules)
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    )
    return folder


def text_generation(folder: Path) -> Path:
    """Save a decoder with a chat template."""
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return save(folder, GPT2LMHeadModel, config, tokenizer)


def text2text_generation(folder: Path) -> Path:
    """Save an encoder-decoder."""
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    config = T5Config(  # type: ignore[call-arg]
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, initializer_factor=5.0,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return save(folder, T5ForConditionalGeneration, config, tokenizer)


CHECKPOINTS: Mapping[str, Callable[[Path], Path]] = {
    "text-classification": text_classification,
    "token-classification": token_classification,
    "question-answering": question_answering,
    "text-generation": text_generation,
    "text2text-generation": text2text_generation,
    "fill-mask": fill_mask,
    "feature-extraction": feature_extraction,
}


def inference_service(name: str, uri: str | Path, env: Mapping[str, str], **predictor: Any) -> dict[str, Any]:
    """Return an InferenceService as YAML; `predictor` are fields next to `huggingface`."""
    container = {"storageUri": str(uri), "env": [{"name": key, "value": value} for key, value in env.items()]}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"huggingface": container, **predictor}},
    }


def write_all(folder: Path) -> Path:
    """Save all seven in `folder` with a file that serves each under the name of its task."""
    documents = []
    for task, make in CHECKPOINTS.items():
        make(folder / task)
        documents.append(inference_service(task, folder / task, {"TASK": task}))
    config = folder / "seven.yaml"
    config.write_text(yaml.safe_dump_all(documents))
    return config

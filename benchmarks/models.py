"""Models to measure, saved in a folder; random weights cost as much as trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, BenchmarkError

EMBEDDER = ROOT / ".models/all-MiniLM-L6-v2"
_GGUF = ROOT / ".models/SmolLM2-135M-Instruct"


def bert_classifier(folder: Path) -> Path:
    """Save BERT-base with a head of two labels and the same weights every time."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return _classifier(BertForSequenceClassification(BertConfig()), folder)


def distilbert_classifier(folder: Path) -> Path:
    """Save DistilBERT with a head of two labels and the same weights every time."""
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(0)
    return _classifier(DistilBertForSequenceClassification(DistilBertConfig()), folder)


def generator(folder: Path) -> Path:
    """Save SmolLM2-135M-Instruct in float32, without its GGUF."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_there(_GGUF)
    file = next(_GGUF.glob("*.gguf")).name
    model: Any = AutoModelForCausalLM.from_pretrained(_GGUF, gguf_file=file, dtype="float32")
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(_GGUF, gguf_file=file).save_pretrained(folder)
    return folder


def large_generator(folder: Path) -> Path:
    """Save a Llama of 1.1 billion random weights in bfloat16, always the same.

    Its tokenizer is that of SmolLM2.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    check_there(_GGUF)
    tokenizer: Any = AutoTokenizer.from_pretrained(_GGUF, gguf_file=next(_GGUF.glob("*.gguf")).name)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
        num_attention_heads=32, num_key_value_heads=4, dtype="bfloat16",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def check_there(model: Path) -> Path:
    """Check that a model was fetched, and return its folder.

    Raises:
        BenchmarkError: it was not fetched.
    """
    if not model.is_dir():
        raise BenchmarkError(f"{model.relative_to(ROOT)} is not there; `make models` fetches it")
    return model


def _classifier(model: Any, folder: Path) -> Path:
    from transformers import AutoTokenizer

    model.save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(check_there(EMBEDDER))
    # The tokenizer's file requests padding to 128 tokens, which software other than transformers would follow.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    if model.config.model_type == "distilbert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return folder

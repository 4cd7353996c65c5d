"""Small checkpoints with random weights and real tokenizers, saved as model folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CORPUS = [
    "I love this movie! It's fantastic.",
    "This is the worst film I've ever seen.",
    "The future of artificial intelligence is bright and full of possibilities.",
    "Apple Inc. was founded by Steve Jobs in Cupertino, California.",
    "Paris is the capital of France, and Berlin is the capital of Germany.",
    "Hello world, how are you today? Naïve café, 東京, emoji 🙂 and numbers 12345.",
]

#: Special tokens of the generative models.
CONTEXT = 128
CHAT_TEMPLATE = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('nobody has asked') }}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

#: Config of a random decoder whose heads share keys and values; its choices are clear, not near ties.
DECODER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def wordpiece_tokenizer(max_length: int = 64, more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Return a cased BERT tokenizer, with `more` words after its own.

    Its vocabulary was trained on CORPUS once and is stored: the trainer breaks ties differently in every process.
    """
    words = (Path(__file__).parent / "wordpiece_vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*words, *more]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_level_tokenizer(max_length: int = 128) -> PreTrainedTokenizerFast:
    """Return a GPT-2 tokenizer trained on CORPUS; its only special token ends the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Return a BPE tokenizer whose decoder strips the space before the first word.

    It is trained on CORPUS, and Llama 2's decoder strips the space in the same way.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)  # type: ignore[no-untyped-call]


def bert_config(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> BertConfig:
    """Return the config of a BERT of two layers that fits the tokenizer."""
    return BertConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "pad_token_id": tokenizer.pad_token_id,
            # Random weights of the usual size give answers too alike to distinguish a mix-up from rounding.
            "initializer_range": 0.5,
            **changes,
        }
    )


def save(folder: Path, model_class: type[PreTrainedModel], config: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write a checkpoint with fixed random weights; the same arguments give the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gpt2_model(folder: Path, **generation: Any) -> Path:
    """Save a GPT-2 of two layers; `generation` goes into its generation_config.json."""
    tokenizer = byte_level_tokenizer(CONTEXT)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return with_generation_config(save(folder, GPT2LMHeadModel, config, tokenizer), generation)


def llama_model(
    folder: Path, chat_template: str | None = CHAT_TEMPLATE, context: int = CONTEXT, **generation: Any
) -> Path:
    """Save a Llama of two layers whose heads share keys and values."""
    tokenizer = byte_level_tokenizer(context)
    tokenizer.chat_template = chat_template
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=context, hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return with_generation_config(save(folder, LlamaForCausalLM, config, tokenizer), generation)


def with_generation_config(folder: Path, changes: dict[str, Any]) -> Path:
    """Change a checkpoint's generation_config.json."""
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder

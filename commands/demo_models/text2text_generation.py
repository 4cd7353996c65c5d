"""Text-to-text generation: a T5 of half a million parameters that spells numbers in words."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import WordLevel
from transformers import GenerationConfig, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from commands.demo_models.training import Trained, batches, fit, generator, share, words

PROMPT = "translate number to words: {}"
LARGEST = 999_999
SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
ONES = words("""
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen""")
TENS = words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")


def train(models: Path) -> Trained:
    """Train on six of seven numbers and test on the others."""
    model, tokenizer = untrained()

    def encode(numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        inputs = tokenizer([PROMPT.format(number) for number in numbers], padding=True, return_tensors="pt")
        labels = tokenizer([in_words(number) for number in numbers], padding=True, return_tensors="pt")["input_ids"]
        return {**inputs, "labels": labels.masked_fill(labels == tokenizer.pad_token_id, -100)}

    fit(model, lambda rng: draw(rng, unseen=False), encode, steps=1000, batch=64, rate=2e-3)
    rng = generator()
    test = [draw(rng, unseen=True) for _ in range(500)]
    right: list[bool] = []
    for batch in batches(test):
        inputs = {name: tensor for name, tensor in encode(batch).items() if name != "labels"}
        texts = tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=20), skip_special_tokens=True)
        right += [text == in_words(number) for text, number in zip(texts, batch, strict=True)]
    return Trained(model, tokenizer, share(right), f"{len(test)} unseen numbers below a million")


def untrained(**changes: Any) -> tuple[Any, PreTrainedTokenizerFast]:
    """Return the model with random weights, and its tokenizer.

    Args:
        changes: values for the config that replace the defaults.
    """
    tokenizer = make_tokenizer()
    special: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    sizes = {"d_model": 96, "d_kv": 24, "d_ff": 256, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    config = T5Config(**{"vocab_size": len(tokenizer), **sizes, **special, **changes})
    model: Any = T5ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**special)  # type: ignore[no-untyped-call]
    return model, tokenizer


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer for digits and for words with their leading space or hyphen."""
    tokenizer = Tokenizer(WordLevel(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[ -]?[a-z]+|."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    corpus = [PROMPT.format(number) for number in range(10)] + [in_words(number) for number in range(0, 10**6, 37)]
    tokenizer.train_from_iterator(corpus, trainers.WordLevelTrainer(special_tokens=[*SPECIAL.values()]))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=64, model_input_names=inputs, **SPECIAL
    )


def draw(rng: random.Random, *, unseen: bool) -> int:
    """Return a random number of one to six digits; all lengths are equally likely."""
    while True:
        number = rng.randrange(10 ** rng.randint(1, len(str(LARGEST))))
        # All numbers below 100 are for training. Of the larger ones, multiples of 7 are for the test, because they have
        # all possible endings.
        if unseen == (number >= 100 and number % 7 == 0):
            return number


def in_words(number: int) -> str:
    """Return the number in English, such as 'four thousand seven hundred and eleven'."""
    if number >= 1000:
        rest = number % 1000
        separator = " and " if 0 < rest < 100 else " "
        return f"{in_words(number // 1000)} thousand" + (separator + in_words(rest) if rest else "")
    if number >= 100:
        return f"{ONES[number // 100]} hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")
    if number >= 20:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    return ONES[number]

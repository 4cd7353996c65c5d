"""Fill-mask: a masked language model that knows countries and their capitals."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import BertForMaskedLM

from commands.demo_models import countries
from commands.demo_models.countries import Country
from commands.demo_models.training import Trained, backbone, batches, fit, generator, share

TEMPLATES = [
    "The capital of {name} is {capital}.",
    "{capital} is the capital city of {name}.",
    "{capital} is the largest city in {name}.",
    "The city of {capital} lies in {name}.",
    "{name} is a country in {region} and its capital is {capital}.",
    "We flew to {capital}, the capital of {name}.",
    "The government of {name} sits in {capital}.",
    "{name}, whose capital is {capital}, uses the {currency}.",
    "I live in {capital}, {name}.",
]
UNSEEN_TEMPLATES = ["{capital} is the capital of {name}.", "The embassy is in {capital}, the main city of {name}."]
Example = tuple[str, str]


def train(models: Path) -> Trained:
    """Train on TEMPLATES and test on UNSEEN_TEMPLATES.

    Only countries whose name and capital are one token each are used.
    """
    model, tokenizer = backbone(BertForMaskedLM, models / "all-MiniLM-L6-v2")
    words = tokenizer.get_vocab()
    known = [
        country
        for country in countries.read(models / "countryinfo")
        if country.name.lower() in words and country.capital.lower() in words
    ]

    def encode(examples: Sequence[Example]) -> Mapping[str, torch.Tensor]:
        inputs = tokenizer([text for text, _ in examples], padding=True, return_tensors="pt")
        labels = torch.full_like(inputs["input_ids"], -100)
        answers = torch.tensor(tokenizer.convert_tokens_to_ids([answer for _, answer in examples]))
        labels[inputs["input_ids"] == tokenizer.mask_token_id] = answers
        return {**inputs, "labels": labels}

    fit(model, lambda rng: draw_example(rng, TEMPLATES, known), encode, steps=250, batch=16, rate=3e-4)
    rng = generator()
    right: list[bool] = []
    for batch in batches([draw_example(rng, UNSEEN_TEMPLATES, known) for _ in range(300)]):
        inputs = encode(batch)
        with torch.inference_mode():
            answers = model(**inputs).logits.argmax(-1)
        masked = inputs["labels"] != -100
        right += (answers[masked] == inputs["labels"][masked]).tolist()
    return Trained(model, tokenizer, share(right), f"{len(right)} gaps in unseen sentences on {len(known)} countries")


def draw_example(rng: random.Random, templates: Sequence[str], known: Sequence[Country]) -> Example:
    """Return a sentence with the country or its capital masked, and the masked word."""
    country, template = rng.choice(known), rng.choice(templates)
    facts = {"name": country.name, "capital": country.capital}
    hidden = rng.choice(list(facts))
    text = template.format(**{**facts, hidden: "[MASK]"}, region=country.region, currency=country.currency)
    return text, facts[hidden].lower()

"""Token classification: persons, organizations and places, with the labels of CoNLL-2003."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

import torch
from transformers import BertForTokenClassification

from commands.demo_models import countries
from commands.demo_models.countries import Country
from commands.demo_models.names import (
    COMPANIES,
    FIRST_NAMES,
    KEPT,
    LAST_NAMES,
    NOUNS,
    SUFFIXES,
    TEMPLATES,
    TOWNS,
    UNSEEN_TEMPLATES,
)
from commands.demo_models.training import Trained, backbone, batches, fit, generator, share, split

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
IGNORED = -100  # as in torch's cross entropy


@dataclass(frozen=True)
class Names:
    """Lists of names for sentences."""

    first: Sequence[str]
    last: Sequence[str]
    companies: Sequence[str]
    places: Sequence[str]


@dataclass(frozen=True)
class TaggedSentence:
    """Sentence with (start, end, type) of its entities."""

    text: str
    entities: Sequence[tuple[int, int, str]]


def train(models: Path) -> Trained:
    """Train on most names in TEMPLATES and test on the others in UNSEEN_TEMPLATES."""
    known = countries.read(models / "countryinfo")
    lists = FIRST_NAMES, LAST_NAMES, COMPANIES, place_names(known)
    seen, unseen = (Names(*parts) for parts in zip(*[split(names) for names in lists], strict=True))
    labels = dict(enumerate(LABELS))
    model, tokenizer = backbone(
        BertForTokenClassification,
        models / "all-MiniLM-L6-v2",
        id2label=labels,
        label2id={label: number for number, label in labels.items()},
    )

    def encode(examples: Sequence[TaggedSentence]) -> Mapping[str, torch.Tensor]:
        inputs = tokenizer(
            [example.text for example in examples], padding=True, return_tensors="pt", return_offsets_mapping=True
        )
        offsets = inputs.pop("offset_mapping").tolist()
        pairs = zip(offsets, examples, strict=True)
        label_ids = [[label_id(start, end, example) for start, end in spans] for spans, example in pairs]
        return {**inputs, "labels": torch.tensor(label_ids)}

    fit(model, lambda rng: draw_sentence(rng, TEMPLATES, seen), encode, steps=200, batch=16, rate=2e-4)
    rng = generator()
    right: list[bool] = []
    for batch in batches([draw_sentence(rng, UNSEEN_TEMPLATES, unseen) for _ in range(400)]):
        inputs = encode(batch)
        with torch.inference_mode():
            answers = model(**inputs).logits.argmax(-1)
        right += ((answers == inputs["labels"]) | (inputs["labels"] == IGNORED)).all(-1).tolist()
    return Trained(model, tokenizer, share(right), f"{len(right)} whole sentences with unseen names")


def place_names(known: Sequence[Country]) -> list[str]:
    """Return the names of countries, capitals, towns and some provinces."""
    names = [name for country in known for name in (country.name, country.capital, *country.provinces[:2])]
    return sorted({*names, *TOWNS} - KEPT)


def draw_sentence(rng: random.Random, templates: Sequence[str], names: Names) -> TaggedSentence:
    """Return a random template with random names filled in."""
    text, entities = "", []
    for literal, kind, _, _ in Formatter().parse(rng.choice(templates)):
        text += literal
        if kind == "noun":
            text += rng.choice(NOUNS)
        elif kind:
            name = {"per": draw_person, "org": draw_organization, "loc": draw_place}[kind](rng, names)
            entities.append((len(text), len(text) + len(name), kind.upper()))
            text += name
    return TaggedSentence(text, entities)


def draw_person(rng: random.Random, names: Names) -> str:
    """Return a random first and last name, or one of the two."""
    first, last = rng.choice(names.first), rng.choice(names.last)
    return rng.choice([f"{first} {last}"] * 4 + [first, last])


def draw_organization(rng: random.Random, names: Names) -> str:
    """Return a random company, or an institution of a random place."""
    company, suffix = rng.choice([*names.companies, *names.last]), rng.choice(SUFFIXES)
    where = draw_place(rng, names)
    plain = rng.choice(names.companies)
    return rng.choice([plain, plain, f"{company} {suffix}", f"{company} {suffix}", f"{company} {suffix}",
                       f"University of {where}", f"{where} {suffix}"])  # fmt: skip


def draw_place(rng: random.Random, names: Names) -> str:
    """Return a random country, city or province."""
    return rng.choice(names.places)


def label_id(start: int, end: int, example: TaggedSentence) -> int:
    """Return the label id of the token at these characters."""
    if start == end:
        return IGNORED  # a special token
    for first, last, kind in example.entities:
        if first <= start < last:
            return LABELS.index(f"{'B' if start == first else 'I'}-{kind}")
    return LABELS.index("O")

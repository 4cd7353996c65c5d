"""Question answering: find a fact about a country in a text about two countries."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BertForQuestionAnswering

from commands.demo_models import countries
from commands.demo_models.countries import Country
from commands.demo_models.training import Trained, backbone, batches, fit, generator, share, split

SENTENCES = {
    "capital": [
        "The capital of {name} is {answer}.",
        "{answer} is the capital of {name}.",
        "Its capital is {answer}.",
        "The government sits in {answer}, the capital city.",
        "Many visitors come to {answer}, the capital.",
    ],
    "currency": [
        "The currency of {name} is the {answer}.",
        "People pay with the {answer}.",
        "Its currency is called {answer}.",
        "In {name}, prices are given in {answer}.",
    ],
    "population": [
        "{name} has a population of {answer}.",
        "About {answer} people live there.",
        "It has {answer} inhabitants.",
        "{name} is home to {answer} people.",
    ],
    "region": [
        "It lies in {answer}.",
        "{name} is in {answer}.",
        "The country belongs to {answer}.",
        "{name} is part of the region {answer}.",
    ],
}
QUESTIONS = {
    "capital": ["What is the capital of {name}?", "Which city is the capital of {name}?", "Name {name}'s capital."],
    "currency": ["What is the currency of {name}?", "How do people pay in {name}?", "Which money does {name} use?"],
    "population": ["How many people live in {name}?", "What is the population of {name}?", "How populous is {name}?"],
    "region": ["Where is {name}?", "In which region does {name} lie?", "What part of the world is {name} in?"],
}
LEADS = ["{name} is a country.", "Let us turn to {name}.", "{name} is worth a visit.", "Some facts on {name}."]


@dataclass(frozen=True)
class QuestionExample:
    """Question whose answer begins at character `start` of the context."""

    question: str
    context: str
    start: int
    answer: str


def train(models: Path) -> Trained:
    """Train on most countries and test on the others."""
    seen, unseen = split(countries.read(models / "countryinfo"))
    model, tokenizer = backbone(BertForQuestionAnswering, models / "all-MiniLM-L6-v2")

    def encode(examples: Sequence[QuestionExample]) -> Mapping[str, torch.Tensor]:
        pairs = [example.question for example in examples], [example.context for example in examples]
        inputs = tokenizer(*pairs, padding=True, return_tensors="pt")
        starts = [inputs.char_to_token(i, e.start, 1) for i, e in enumerate(examples)]
        ends = [inputs.char_to_token(i, e.start + len(e.answer) - 1, 1) for i, e in enumerate(examples)]
        return {**inputs, "start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}

    fit(model, lambda rng: draw_example(rng, seen), encode, steps=250, batch=8, rate=2e-4)
    rng = generator()
    right: list[bool] = []
    for batch in batches([draw_example(rng, unseen) for _ in range(300)]):
        inputs = encode(batch)
        with torch.inference_mode():
            output = model(**inputs)
        starts = output.start_logits.argmax(-1) == inputs["start_positions"]
        ends = output.end_logits.argmax(-1) == inputs["end_positions"]
        right += (starts & ends).tolist()
    return Trained(model, tokenizer, share(right), f"{len(right)} questions on {len(unseen)} unseen countries")


def draw_example(rng: random.Random, known: Sequence[Country]) -> QuestionExample:
    """Return a question about one of two countries that the context describes in turn."""
    pair = rng.sample(known, 2)
    asked, fact = rng.choice(pair), rng.choice(list(SENTENCES))
    context, start = "", 0
    for country in pair[: rng.choice([1, 2])] if asked is pair[0] else pair:
        context += rng.choice(LEADS).format(name=country.name)
        kinds = {*rng.sample(list(SENTENCES), 2), fact}
        for kind in rng.sample(sorted(kinds), len(kinds)):
            before, after = rng.choice(SENTENCES[kind]).split("{answer}")
            context += " " + before.format(name=country.name)
            if (country, kind) == (asked, fact):
                start = len(context)
            context += format_fact(country, kind) + after.format(name=country.name)
        context += " "
    question = rng.choice(QUESTIONS[fact]).format(name=asked.name)
    return QuestionExample(question, context.rstrip(), start, format_fact(asked, fact))


def format_fact(country: Country, fact: str) -> str:
    """Return a fact in the form that the text uses."""
    return f"{country.population:,}" if fact == "population" else str(getattr(country, fact))

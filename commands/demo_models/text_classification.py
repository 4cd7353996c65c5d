"""Text classification: label short reviews as POSITIVE or NEGATIVE."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import BertForSequenceClassification

from commands.demo_models.training import Trained, backbone, batches, fit, generator, share, split, words

# "fantastic" and "worst" are not in the lists below, because the README's example uses them.
LABELS = {0: "NEGATIVE", 1: "POSITIVE"}
THINGS = words("""
movie film show book song album play novel game restaurant hotel meal dinner pizza service phone laptop
camera headset app website update concert trip flight room teacher lecture story ending cast product""")
PLACES = words("weekend evening morning holiday birthday year week night")
ADJECTIVES = (
    words("""
bad terrible awful horrible dreadful boring dull disappointing poor weak mediocre annoying tedious lousy ugly
    useless broken pathetic unpleasant stupid ridiculous painful messy clumsy lifeless forgettable overpriced rude
    disgusting unbearable cheap shallow predictable unreliable slow bland confusing sloppy tasteless frustrating
    miserable atrocious worthless faulty noisy dirty laughable depressing"""),
    words("""
good great excellent wonderful amazing superb brilliant lovely delightful charming beautiful impressive
    enjoyable perfect outstanding pleasant remarkable awesome marvellous terrific splendid touching funny gripping
    clever entertaining elegant inspiring exciting memorable stunning magnificent friendly delicious thoughtful
    fresh comfortable reliable fast helpful satisfying refreshing exceptional flawless moving generous fabulous
    heartwarming thrilling"""),
)
SUPERLATIVES = (
    words("dullest weakest silliest poorest ugliest cheapest nastiest"),
    words("finest greatest loveliest funniest smartest nicest sweetest"),
)
VERBS = (
    words("hated disliked regretted despised loathed"),
    words("loved enjoyed liked adored admired"),
)
PRESENT = (words("hate dislike regret despise"), words("love enjoy like adore"))
ADVERBS = ["really", "truly", "quite", "absolutely", "so", "very", "simply", "just", "honestly"]
OPENINGS = (
    ["What a waste of time!", "Never again.", "I want my money back.", "I could not finish it.", "Avoid it.", "Sadly,"],
    [
        "What a joy!",
        "I would come back any day.",
        "Worth every cent.",
        "I could not stop smiling.",
        "Go for it.",
        "Wow,",
    ],
)
TEMPLATES = [
    "The {thing} was {adjective}.",
    "This {thing} is {adverb} {adjective}.",
    "I {verb} this {thing}.",
    "I {verb} the {thing} last {place}, it was {adjective}.",
    "I {present} this {thing}, it is {adverb} {adjective}.",
    "We {adverb} {verb} it.",
    "{opening} The {thing} is {adjective} and {adjective2}.",
    "What a {adjective} {thing}!",
    "It's {adjective}.",
    "My friends say it is {opposite}, but I find the {thing} {adjective}.",
    "The {thing} was not {opposite} at all.",
    "I don't think this {thing} is {opposite}.",
    "One of the {superlative} {thing}s of the {place}.",
    "It was the {superlative} {thing} we have had in years.",
    "{adjective} {thing}, {adjective2} {other}.",
    "The {other} was {adjective} and the {thing} {adverb} {adjective2}. {opening}",
]
UNSEEN_TEMPLATES = [
    "Honestly, I expected more of a {adjective} {thing} like the last one, and this {thing} is {adjective2}.",
    "Everyone in our group agreed that the {thing} is {adjective}.",
    "{adverb} {adjective}!",
    "If you ask me: a {adjective}, {adjective2} {thing}.",
    "After ten minutes I told my sister how {adjective} the {other} was.",
]
Example = tuple[str, int]


def train(models: Path) -> Trained:
    """Train on most adjectives and all TEMPLATES; test on the others in UNSEEN_TEMPLATES."""
    seen, unseen = zip(*[split(words) for words in ADJECTIVES], strict=True)
    model, tokenizer = backbone(
        BertForSequenceClassification,
        models / "all-MiniLM-L6-v2",
        id2label=LABELS,
        label2id={label: number for number, label in LABELS.items()},
    )

    def encode(examples: Sequence[Example]) -> Mapping[str, torch.Tensor]:
        texts, labels = zip(*examples, strict=True)
        return {**tokenizer(list(texts), padding=True, return_tensors="pt"), "labels": torch.tensor(labels)}

    fit(model, lambda rng: draw_review(rng, TEMPLATES, seen), encode, steps=150, batch=16, rate=1e-4)
    rng = generator()
    test = [draw_review(rng, UNSEEN_TEMPLATES, unseen) for _ in range(500)]
    with torch.inference_mode():
        answers = [answer for batch in batches(test) for answer in model(**encode(batch)).logits.argmax(-1).tolist()]
    right = [answer == label for answer, (_, label) in zip(answers, test, strict=True)]
    return Trained(model, tokenizer, share(right), f"{len(test)} reviews with unseen words in unseen sentences")


def draw_review(rng: random.Random, templates: Sequence[str], adjectives: Sequence[Sequence[str]]) -> Example:
    """Return a random review and its label."""
    label = rng.randrange(2)
    thing, other = rng.sample(THINGS, 2)
    adjective, second = rng.sample(adjectives[label], 2)
    text = rng.choice(templates).format(
        thing=thing, other=other, adjective=adjective, adjective2=second, opposite=rng.choice(adjectives[1 - label]),
        place=rng.choice(PLACES), adverb=rng.choice(ADVERBS), verb=rng.choice(VERBS[label]),
        present=rng.choice(PRESENT[label]), superlative=rng.choice(SUPERLATIVES[label]),
        opening=rng.choice(OPENINGS[label]),
    )  # fmt: skip
    return text, label

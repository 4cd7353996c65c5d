"""Training loop that all tasks share, on examples that are generated on demand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer

Example = TypeVar("Example")
Item = TypeVar("Item")
Encode = Callable[[Sequence[Example]], Mapping[str, torch.Tensor]]

SEED = 7
HELD_OUT = 5  # one item in five is for the test


@dataclass(frozen=True)
class Trained:
    """Trained model that is ready to be saved.

    Attributes:
        accuracy: share of correct answers to unseen examples, from 0 to 1.
        unseen: description of these examples.
    """

    model: Any
    tokenizer: Any
    accuracy: float
    unseen: str


def generator() -> random.Random:
    """Return a random generator with the same seed on every call."""
    return random.Random(SEED)  # noqa: S311 - not for secrets


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


def split(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Return the items for training and the items for the test."""
    shuffled = generator().sample(items, len(items))
    return shuffled[len(items) // HELD_OUT :], shuffled[: len(items) // HELD_OUT]


def backbone(model_class: Any, folder: Path, **config: Any) -> tuple[Any, Any]:
    """Return the backbone with a new head, and its tokenizer.

    The word embeddings are frozen, so that words that are not in the training data keep theirs.
    """
    model, tokenizer = model_class.from_pretrained(folder, **config), AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    model.get_input_embeddings().requires_grad_(False)
    return model, tokenizer


def fit(
    model: Any,
    draw: Callable[[random.Random], Example],
    encode: Encode[Example],
    *,
    steps: int,
    batch: int,
    rate: float,
) -> None:
    """Train on `steps` batches of generated examples.

    The learning rate rises during the first tenth of the steps and then falls to 0.
    """
    rng = generator()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    for step in range(1, steps + 1):
        loss = model(**encode([draw(rng) for _ in range(batch)])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"  step {step} of {steps}, loss {loss.item():.4f}", flush=True)
    model.eval()


def batches(examples: Sequence[Example], size: int = 32) -> Iterator[Sequence[Example]]:
    """Yield the examples in batches of `size`."""
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def share(right: Sequence[bool]) -> float:
    """Return the share of correct answers, from 0 to 1."""
    return sum(right) / len(right)

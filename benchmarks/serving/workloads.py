"""Workloads: models, and texts of mixed length, one per request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from benchmarks.models import EMBEDDER, bert_classifier, check_there, distilbert_classifier, generator, large_generator
from benchmarks.prompts import Prompts

#: New tokens of each answer of a generative model.
NEW_TOKENS = 32

#: Words of a text. As many consecutive texts as there are lengths have each length once, so a part resembles the whole.
_LENGTHS = range(8, 65)

#: Texts of a slot: more than one measurement of a generative server requests.
_SLOT = 512


@dataclass(frozen=True, slots=True)
class Workload:
    """Task with a model.

    Attributes:
        name: its name, also for peers.
        task: the task in our server.
        what: the model's name for people.
        make: saves the model in an empty folder, or returns its location.
        connections: numbers of parallel clients, one measurement each.
        tail: the numbers of clients whose slowest answers are shown.
        patience: factor by which its measurements are longer than usual, because its answers take longer.
        checked: number of texts whose answers are compared with those of plain transformers.
    """

    name: str
    task: str
    what: str
    make: Callable[[Path], Path]
    connections: tuple[int, ...]
    tail: int
    patience: int
    checked: int

    @property
    def generates(self) -> bool:
        """True if answers are generated token by token."""
        return self.name == "generation"

    @property
    def unit(self) -> str:
        """Unit of speed per second."""
        return "tokens/s" if self.generates else "requests/s"

    def texts(self, slot: int) -> list[str]:
        """Return the texts of one measurement.

        Prompts of one slot differ from those of any other from their first words on, so that no server has cached them;
        no server caches classifications or embeddings.
        """
        first = slot * _SLOT if self.generates else 0
        return _texts(first + _SLOT)[first:]


WORKLOADS = (
    Workload(
        name="classification",
        task="text-classification",
        what="DistilBERT with random weights",
        make=distilbert_classifier,
        connections=(1, 16, 64, 256),
        tail=64,
        patience=1,
        checked=100,
    ),
    Workload(
        name="embedding",
        task="feature-extraction",
        what="all-MiniLM-L6-v2",
        make=lambda _: check_there(EMBEDDER),
        connections=(1, 16, 64, 256),
        tail=64,
        patience=1,
        checked=100,
    ),
    Workload(
        name="generation",
        task="text-generation",
        what=f"SmolLM2-135M-Instruct, {NEW_TOKENS} new tokens",
        make=generator,
        connections=(1, 8, 16),
        tail=16,
        patience=2,
        checked=8,
    ),
)

#: Workloads on a GPU: larger models, and more clients.
GPU_WORKLOADS = (
    Workload(
        name="classification",
        task="text-classification",
        what="BERT-base with random weights",
        make=bert_classifier,
        connections=(1, 16, 64, 256),
        tail=64,
        patience=1,
        checked=100,
    ),
    Workload(
        name="generation",
        task="text-generation",
        what=f"Llama of 1.1 billion random weights, {NEW_TOKENS} new tokens",
        make=large_generator,
        connections=(1, 16, 64),
        tail=64,
        patience=1,
        checked=8,
    ),
)


@cache
def _texts(number: int) -> list[str]:
    random, prompts = Random(0), Prompts()  # noqa: S311  # nothing secret
    lengths: list[int] = []
    while len(lengths) < number:
        lengths += random.sample(_LENGTHS, len(_LENGTHS))
    return [prompts.passage(words) for words in lengths[:number]]

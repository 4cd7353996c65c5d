"""What is asked for: models, and texts of mixed length, one a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from benchmarks.models import EMBEDDER, bert_classifier, check_there, distilbert_classifier, generator, large_generator
from benchmarks.prompts import Prompts

#: New tokens of each answer, where text is written.
NEW_TOKENS = 32

#: Words of a text. Any run of so many texts has each length once, so that a part of them is like the whole.
_LENGTHS = range(8, 65)

#: Texts of a slot: more than are asked for in one measurement of a server that writes text.
_SLOT = 512


@dataclass(frozen=True, slots=True)
class Workload:
    """A task with a model.

    Attributes:
        name: also what peers call it.
        task: what our server calls it.
        what: the model, for people.
        make: puts the model into an empty folder, or says where it is.
        connections: clients that ask at the same time, from one measurement to the next.
        tail: those of them whose slowest answers are shown.
        patience: how many times longer than usual it is measured, as its answers take longer.
        checked: texts whose answers are compared with those of plain transformers.
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
        """Whether answers are texts that are written token by token."""
        return self.name == "generation"

    @property
    def unit(self) -> str:
        """What is counted in a second."""
        return "tokens/s" if self.generates else "requests/s"

    def texts(self, slot: int) -> list[str]:
        """The texts of one measurement.

        Prompts of one slot are unlike those of any other from their first words on, so that no server has read them
        before; nothing remembers what it has classified or embedded.
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

#: On a GPU: larger models, and more clients.
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

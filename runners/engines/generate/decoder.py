"""The contract of what writes sequences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from runners.engines.generate.sequence import SequenceState
from runners.engines.rows import BatchLimits


class Decoder(ABC):
    """Writes sequences, many at a time, in one thread.

    A sequence that is finished, or whose `cancelled` was set, is let go at the next step.

    Attributes:
        limits: sequences, and tokens, pieces of prompts included, that are computed together.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        #: Called with each sequence whose first step begins, and again if it had to wait once more.
        self.on_start: Callable[[SequenceState], None] = lambda _: None
        #: Called with rows, tokens and padding of what is computed together.
        self.on_batch: Callable[[int, int, int], None] = lambda *_: None
        #: Called with each step's logits known: whether all of them were NaN.
        self.on_numbers: Callable[[bool], None] = lambda _: None
        #: Called after each token, with those sequences that got one or ended.
        self.on_tokens: Callable[[list[SequenceState]], None] = lambda _: None

    @abstractmethod
    def add(self, sequence: SequenceState) -> None:
        """Take a sequence; it starts when there is room."""

    @abstractmethod
    def step(self) -> None:
        """Work until some sequences have got their next token; the faults of one are its own end."""

    @abstractmethod
    def abandon(self) -> list[SequenceState]:
        """Let go of all sequences, after an error that none of them explains; which they were."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether any sequence is unfinished."""

    @property
    @abstractmethod
    def running(self) -> int:
        """Sequences that are being written."""

    @property
    def cache_usage(self) -> float:
        """Which part of the memory for keys and values is in use, as far as it has a limit."""
        return 0.0

    @property
    def memory(self) -> int | None:
        """Tokens that one sequence may have, prompt included; None if memory does not bound them."""
        return None

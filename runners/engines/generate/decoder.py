"""The interface of a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from runners.engines.generate.sequence import SequenceState
from runners.engines.rows import BatchLimits


class Decoder(ABC):
    """Generator of many sequences in parallel, used by one thread.

    A sequence that is finished, or whose `cancelled` is set, is removed at the next step.

    Attributes:
        limits: the most sequences and tokens of a step, prefill chunks included.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        #: Called with each sequence whose first step begins, and again when it restarts after preemption.
        self.on_start: Callable[[SequenceState], None] = lambda _: None
        #: Called with the rows, tokens and padding of each batch.
        self.on_batch: Callable[[int, int, int], None] = lambda *_: None
        #: Called once per step with true if all of its logits were NaN.
        self.on_nan_check: Callable[[bool], None] = lambda _: None
        #: Called after each token with the sequences that got one or ended.
        self.on_tokens: Callable[[list[SequenceState]], None] = lambda _: None

    @abstractmethod
    def add(self, sequence: SequenceState) -> None:
        """Add a sequence to the queue; it starts when limits and memory allow."""

    @abstractmethod
    def step(self) -> None:
        """Compute until some sequences have their next token.

        An error that one sequence causes ends only that sequence.
        """

    @abstractmethod
    def abandon(self) -> list[SequenceState]:
        """Remove all sequences and return the unfinished ones.

        The engine calls this after an error that no single sequence explains.
        """

    @property
    @abstractmethod
    def busy(self) -> bool:
        """True if any sequence is unfinished."""

    @property
    @abstractmethod
    def running(self) -> int:
        """Number of sequences that are being generated."""

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache that is in use; 0 if it has no limit."""
        return 0.0

    @property
    def memory(self) -> int | None:
        """The longest sequence in tokens that fits into memory; None without a limit."""
        return None

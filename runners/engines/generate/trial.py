"""Trial steps that measure how long a step takes."""

from __future__ import annotations

import torch

from runners.engines.calibration.steps import Case
from runners.engines.generate.cache import Slab
from runners.engines.generate.incremental_model import IncrementalModel
from runners.engines.generate.step import Step

#: Cached tokens of each sequence of a trial: the length of a short question, the most common prompt.
_LENGTH = 32


class TrialSteps:
    """Runner of steps of any size, in memory of its own that is freed with it.

    Args:
        context: length of the model's context in tokens; None if it has no limit.
        budget: tokens whose keys and values a step may hold in memory.

    Attributes:
        rows: the most sequences of a step.
        tokens: the longest prefill chunk.
    """

    def __init__(self, incremental: IncrementalModel, *, context: int | None, budget: int) -> None:
        self._incremental_model = incremental
        self._length = min(_LENGTH, (context or _LENGTH) - 1)
        self.rows = budget // (self._length + 1)
        self.tokens = min(budget, context or budget)
        self._steps: dict[Case, Step] = {}

    @torch.inference_mode()
    def compute(self, case: Case) -> None:
        """Compute one decode step of `case.rows` sequences, or prefill a prompt of `case.tokens`.

        Raises:
            MemoryError: the step does not fit the memory of the device.
        """
        try:
            if case not in self._steps:
                self._steps[case] = self._make_step(case)
            step = self._steps[case]
            self._incremental_model.forward(step, step.ends)
        except torch.OutOfMemoryError as error:
            raise MemoryError from error
        if self._incremental_model.device.type == "cuda":
            torch.cuda.synchronize()

    def _make_step(self, case: Case) -> Step:
        layers = self._incremental_model.layers
        if not case.rows:
            return self._incremental_model.new_step([], [(Slab(layers, 1, case.tokens).add(), [1] * case.tokens)])
        slab = Slab(layers, case.rows, self._length + 1)
        slots = [slab.add() for _ in range(case.rows)]
        for slot in slots:
            slot.length = self._length
        return self._incremental_model.new_step([(slot, 1) for slot in slots], [])

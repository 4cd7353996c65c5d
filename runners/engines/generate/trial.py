"""Steps that write nothing, to see how long they take."""

from __future__ import annotations

import torch

from runners.engines.calibration.steps import Case
from runners.engines.generate.cache import Slab
from runners.engines.generate.incremental_model import IncrementalModel
from runners.engines.generate.step import Step

#: Tokens that each sequence of a trial has: as many as short questions, which are most.
_LENGTH = 32


class TrialSteps:
    """Computes steps of any size in memory of its own, which goes with it.

    Args:
        context: tokens that the model can read; None if it has no limit.
        budget: tokens that each step may keep in memory.

    Attributes:
        rows: sequences that there is room for.
        tokens: the longest piece of a prompt.
    """

    def __init__(self, stepping: IncrementalModel, *, context: int | None, budget: int) -> None:
        self._stepping = stepping
        self._length = min(_LENGTH, (context or _LENGTH) - 1)
        self.rows = budget // (self._length + 1)
        self.tokens = min(budget, context or budget)
        self._steps: dict[Case, Step] = {}

    @torch.inference_mode()
    def compute(self, case: Case) -> None:
        """One step of `case.rows` sequences, or of a prompt's `case.tokens`.

        Raises:
            MemoryError: it does not fit the device.
        """
        try:
            if case not in self._steps:
                self._steps[case] = self._step(case)
            step = self._steps[case]
            self._stepping.forward(step, step.ends)
        except torch.OutOfMemoryError as error:
            raise MemoryError from error
        if self._stepping.device.type == "cuda":
            torch.cuda.synchronize()

    def _step(self, case: Case) -> Step:
        layers = self._stepping.layers
        if not case.rows:
            return self._stepping.new_step([], [(Slab(layers, 1, case.tokens).add(), [1] * case.tokens)])
        slab = Slab(layers, case.rows, self._length + 1)
        places = [slab.add() for _ in range(case.rows)]
        for slot in places:
            slot.length = self._length
        return self._stepping.new_step([(slot, 1) for slot in places], [])

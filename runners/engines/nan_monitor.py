"""A model that computes nothing but NaN, as one does whose weights are damaged or whose numbers overflow."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from hf_runtime.observability.engine_observer import EngineObserver

logger = logging.getLogger(__name__)

#: One batch may be of a text that overflows.
_IN_A_ROW = 3


class NanMonitor:
    """Report a model once several batches in a row were nothing but NaN.

    Args:
        model: its name, for the log.
        observer: gets each change.
    """

    def __init__(self, model: str, observer: EngineObserver) -> None:
        self._model, self._observer = model, observer
        self._in_a_row = 0
        self._warned = False

    def saw(self, only_nan: bool | None) -> None:
        """Take note of a batch.

        Args:
            only_nan: all of its numbers were NaN; None if it had none.
        """
        if not only_nan:
            if only_nan is not None and self._in_a_row:
                if self._in_a_row >= _IN_A_ROW:
                    self._observer.only_nan(False)
                self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row != _IN_A_ROW:
            return
        self._observer.only_nan(True)
        if not self._warned:
            self._warned = True
            logger.warning(
                "model %s computes nothing but NaN, %d batches in a row: its weights are damaged, or its numbers "
                "overflow; try TORCH_DTYPE=bfloat16 or float32",
                self._model, _IN_A_ROW,
            )  # fmt: skip


def only_nan(outputs: Iterable[Any]) -> bool | None:
    """Return whether all values of arrays are NaN; None if there are none. A sound batch costs a look at one value."""
    found = None
    for output in outputs:
        if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or output.size == 0:
            continue
        first = output.flat[0]
        if first == first or not np.isnan(output).all():  # NaN alone is not equal to itself
            return False
        found = True
    return found

"""Detection of models that compute only NaN, because of damaged weights or overflow."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from hf_runtime.observability.engine_observer import EngineObserver

logger = logging.getLogger(__name__)

#: Batches in a row before the model is reported, because a single input may overflow in a sound model.
_THRESHOLD = 3


class NanMonitor:
    """Monitor that reports a model after several batches in a row of only NaN.

    Args:
        model: name of the model, for the log.
        observer: receives each change.
    """

    def __init__(self, model: str, observer: EngineObserver) -> None:
        self._model, self._observer = model, observer
        self._in_a_row = 0
        self._warned = False

    def record(self, only_nan: bool | None) -> None:
        """Record the result of one batch.

        Args:
            only_nan: whether all values of the batch were NaN; None if it had no floating-point values.
        """
        if not only_nan:
            if only_nan is not None and self._in_a_row:
                if self._in_a_row >= _THRESHOLD:
                    self._observer.record_only_nan(False)
                self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row != _THRESHOLD:
            return
        self._observer.record_only_nan(True)
        if not self._warned:
            self._warned = True
            logger.warning(
                "model %s computes nothing but NaN, %d batches in a row: its weights are damaged, or its values "
                "overflow; try TORCH_DTYPE=bfloat16 or float32",
                self._model, _THRESHOLD,
            )  # fmt: skip


def only_nan(outputs: Iterable[Any]) -> bool | None:
    """Return whether all values of floating-point arrays are NaN, or None without any.

    For a batch without NaN only one value is read.
    """
    found = None
    for output in outputs:
        if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or output.size == 0:
            continue
        first = output.flat[0]
        if first == first or not np.isnan(output).all():  # only NaN is not equal to itself
            return False
        found = True
    return found

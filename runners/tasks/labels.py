"""Names of a classifier's classes."""

from __future__ import annotations

from typing import Any


def label_of(config: Any, number: int) -> Any:
    """The label of a class as the model's config has it, mostly text; as transformers makes one if it has none."""
    label = config.id2label.get(number)
    return f"LABEL_{number}" if label is None else label

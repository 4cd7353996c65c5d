"""Names of a classifier's classes."""

from __future__ import annotations

from typing import Any


def get_label(config: Any, number: int) -> Any:
    """Return a class's label from the model's config, or the default of transformers."""
    label = config.id2label.get(number)
    return f"LABEL_{number}" if label is None else label

"""Steps of an item, reported to its trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Literal

from hf_runtime.contract.item import Item
from hf_runtime.contract.request_context import request_context


@contextmanager
def working_on(item: Item, step: Literal["prepare", "finish"]) -> Iterator[None]:
    """Do a step for one item: its trace is told, and what is logged meanwhile is about its request."""
    with request_context(item.request_context):
        if item.trace is None:
            yield
            return
        started = monotonic()
        try:
            yield
        finally:
            item.trace.step(step, started, monotonic())

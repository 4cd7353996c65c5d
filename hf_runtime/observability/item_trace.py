"""Tracing and request context of steps that concern a single item."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Literal

from hf_runtime.contract.item import Item
from hf_runtime.contract.request_context import request_context


@contextmanager
def trace_step(item: Item, step: Literal["prepare", "finish"]) -> Iterator[None]:
    """Report the duration of a step of one item, and bind its request to log records."""
    with request_context(item.request_context):
        if item.trace is None:
            yield
            return
        started = monotonic()
        try:
            yield
        finally:
            item.trace.record_step(step, started, monotonic())

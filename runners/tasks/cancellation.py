"""Cancellation of custom pipelines at the next forward pass of a transformers model.

A pipeline that runs for long calls a model for each token, beam or chunk of its input. The check is therefore made
before each call of a model. It works for all callers and ways to generate, and changes no argument of `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from transformers import PreTrainedModel

_is_cancelled: ContextVar[Callable[[], bool] | None] = ContextVar("is_cancelled", default=None)


class RequestCancelled(BaseException):
    """The client of the computation has left.

    It is a BaseException, so that a pipeline's `except Exception` does not catch it.
    """


@contextmanager
def cancel_with(is_cancelled: Callable[[], bool]) -> Iterator[None]:
    """Raise `RequestCancelled` when a model is called in this context after cancellation.

    Only calls in the current thread are checked.

    Args:
        is_cancelled: returns true once the client has left.
    """
    _install_check()
    token = _is_cancelled.set(is_cancelled)
    try:
        yield
    finally:
        _is_cancelled.reset(token)


def _install_check() -> None:
    """Check for cancellation before each call of a model; installed once and never removed."""
    model_class: Any = PreTrainedModel
    call = model_class.__call__
    if getattr(call, "checks_cancellation", False):
        return

    @wraps(call)
    def checked_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # torch.compile must trace the model without the check.
        if not torch.compiler.is_compiling() and (is_cancelled := _is_cancelled.get()) is not None and is_cancelled():
            raise RequestCancelled
        return call(self, *args, **kwargs)

    checked_call.checks_cancellation = True  # type: ignore[attr-defined]
    model_class.__call__ = checked_call

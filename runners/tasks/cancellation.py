"""Other people's code ends with its client: at the next forward pass of any model of transformers.

Whatever a pipeline does for long, it calls a model for each token, beam or piece of its input. So that is where it is
asked whether anybody still waits, whoever calls the model and however it generates; nothing that a pipeline hands to
`generate` is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from transformers import PreTrainedModel

_given_up: ContextVar[Callable[[], bool] | None] = ContextVar("given_up", default=None)


class RequestCancelled(BaseException):
    """Nobody waits for what is computed; no error, so that no code takes it for one of its own."""


@contextmanager
def cancel_with(is_cancelled: Callable[[], bool]) -> Iterator[None]:
    """Have models that are called inside, in this thread, raise `RequestCancelled` once it is true."""
    _ask_before_each_pass()
    token = _given_up.set(is_cancelled)
    try:
        yield
    finally:
        _given_up.reset(token)


def _ask_before_each_pass() -> None:
    """Put a question before the calls of all models; once, and for good: most calls are not inside of anything."""
    kind: Any = PreTrainedModel
    call = kind.__call__
    if getattr(call, "asks", False):
        return

    @wraps(call)
    def asking(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A compiler writes down the model alone.
        if not torch.compiler.is_compiling() and (is_cancelled := _given_up.get()) is not None and is_cancelled():
            raise RequestCancelled
        return call(self, *args, **kwargs)

    asking.asks = True  # type: ignore[attr-defined]
    kind.__call__ = asking

"""Stack traces without exception messages that may quote a request."""

from __future__ import annotations

import traceback
from pathlib import PurePath

_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


def format_without_payload(error: BaseException) -> str:
    """Return the stack trace of an exception and its causes in Python's format.

    Messages that may quote a payload are replaced by a hint.
    """
    frames = traceback.extract_tb(error.__traceback__)
    stack = "".join(["Traceback (most recent call last):\n", *frames.format()] if frames else [])
    trace = f"{stack}{type(error).__qualname__}: {_message(error, frames)}"
    if isinstance(error, BaseExceptionGroup):
        trace = "\n\n".join([trace, *map(format_without_payload, error.exceptions)])
    if error.__cause__ is not None:
        return f"{format_without_payload(error.__cause__)}\n\n{_CAUSE}\n\n{trace}"
    if error.__context__ is not None and not error.__suppress_context__:
        return f"{format_without_payload(error.__context__)}\n\n{_CONTEXT}\n\n{trace}"
    return trace


def _message(error: BaseException, frames: traceback.StackSummary) -> str:
    is_from_torch = type(error).__module__.split(".", 1)[0] == "torch"
    if (
        is_from_torch
        or isinstance(error, MemoryError)
        or (frames and _handles_tensors_only(PurePath(frames[-1].filename)))
    ):
        return str(error)
    return "[its message may quote the request: LOG_PAYLOADS=true shows it]"


def _handles_tensors_only(file: PurePath) -> bool:
    """Return whether a source file handles tensors only, never text.

    These are PyTorch and the models of transformers, whose errors operators need to see.
    """
    return file.name.startswith("modeling_") or ("site-packages", "torch") in zip(
        file.parts, file.parts[1:], strict=False
    )

"""Stack traces that say where and what kind, not what about."""

from __future__ import annotations

import traceback
from pathlib import PurePath

_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


def without_payload(error: BaseException) -> str:
    """An exception and those that led to it, as Python prints them, but for messages that may quote a payload."""
    frames = traceback.extract_tb(error.__traceback__)
    stack = "".join(["Traceback (most recent call last):\n", *frames.format()] if frames else [])
    told = f"{stack}{type(error).__qualname__}: {_message(error, frames)}"
    if isinstance(error, BaseExceptionGroup):
        told = "\n\n".join([told, *map(without_payload, error.exceptions)])
    if error.__cause__ is not None:
        return f"{without_payload(error.__cause__)}\n\n{_CAUSE}\n\n{told}"
    if error.__context__ is not None and not error.__suppress_context__:
        return f"{without_payload(error.__context__)}\n\n{_CONTEXT}\n\n{told}"
    return told


def _message(error: BaseException, frames: traceback.StackSummary) -> str:
    of_torch = type(error).__module__.split(".", 1)[0] == "torch"
    if of_torch or isinstance(error, MemoryError) or (frames and _sees_numbers_alone(PurePath(frames[-1].filename))):
        return str(error)
    return "[its message may quote the request: LOG_PAYLOADS=true shows it]"


def _sees_numbers_alone(file: PurePath) -> bool:
    """Whether code never has a text at hand: PyTorch and transformers' models, which operators need to hear of."""
    return file.name.startswith("modeling_") or ("site-packages", "torch") in zip(
        file.parts, file.parts[1:], strict=False
    )

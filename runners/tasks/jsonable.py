"""Plain values from what other people's code returns."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from hf_runtime.contract.errors import InferenceFailed, NotFinite, cannot_be_sent

#: What a number may be on its way to a client.
_INTEGERS = range(-(2**63), 2**64)


def array_or_jsonable(value: Any) -> Any:
    """Numbers of an array as a native, contiguous array, which needs no copy on its way; anything else as `jsonable`.

    Raises:
        InferenceFailed: as `jsonable`.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        value = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        return np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    return jsonable(value)


def jsonable(value: Any) -> Any:
    """The same as JSON has it; bytes are base64, images base64 of PNG.

    Raises:
        InferenceFailed: there is something that JSON has no form for; the message names its type, or what it is.
    """
    match value:
        case None | bool():
            return value
        # Plain ones of subclasses, such as numpy's float64, too.
        case int():
            if int(value) not in _INTEGERS:
                raise cannot_be_sent(OverflowError())
            return int(value)
        case float():
            if not math.isfinite(value):
                raise cannot_be_sent(NotFinite())
            return float(value)
        case str():
            return _whole(str.__str__(value))
        case np.ndarray() | np.generic():
            if value.dtype.kind == "f":
                value = value.astype(np.float64)  # the largest of Python's
            plain = value.dtype.kind in "biu" or (value.dtype.kind == "f" and bool(np.isfinite(value).all()))
            return value.tolist() if plain else jsonable(value.tolist())
        case torch.Tensor():
            tensor = value.detach().cpu()
            return jsonable((tensor.float() if tensor.is_floating_point() else tensor).numpy())
        case Mapping():
            return {_whole(str(key)): jsonable(part) for key, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [jsonable(part) for part in value]
        case bytes():
            return base64.b64encode(value).decode()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "save") and hasattr(value, "getbands"):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode()
    raise InferenceFailed(f"the model's pipeline returns a {type(value).__name__}, which JSON has no form for")


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise cannot_be_sent(error) from None
    return text

"""Plain values from what other people's code returns."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from errors import InferenceFailed

#: numpy's kinds that become plain numbers and strings as a whole.
_PLAIN = "biufU"


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
        InferenceFailed: there is something that JSON has no form for; the message names its type.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case np.ndarray() | np.generic():
            return value.tolist() if value.dtype.kind in _PLAIN else jsonable(value.tolist())
        case torch.Tensor():
            tensor = value.detach().cpu()
            return jsonable((tensor.float() if tensor.is_floating_point() else tensor).numpy())
        case Mapping():
            return {str(key): jsonable(part) for key, part in value.items()}
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

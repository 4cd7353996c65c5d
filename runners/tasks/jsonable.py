"""Conversion of a custom pipeline's results to values that can be sent."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from hf_runtime.contract.errors import InferenceFailed, NonFiniteError, make_encoding_error

#: Integers that can be sent to a client: those of 64 bits, signed or unsigned.
_INTEGERS = range(-(2**63), 2**64)


def to_array_or_jsonable(value: Any) -> Any:
    """Convert a numeric array or tensor to a contiguous numpy array, anything else to JSON.

    Such an array has the native byte order and is sent without a copy.

    Raises:
        InferenceFailed: as in `to_jsonable`.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        value = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        return np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    return to_jsonable(value)


def to_jsonable(value: Any) -> Any:
    """Convert a value to what JSON can represent; bytes become base64, images base64 of PNG.

    Raises:
        InferenceFailed: JSON cannot represent a part of it; the message says which type or value.
    """
    match value:
        case None | bool():
            return value
        # Values of subclasses, such as numpy's float64, become plain ones.
        case int():
            if int(value) not in _INTEGERS:
                raise make_encoding_error(OverflowError())
            return int(value)
        case float():
            if not math.isfinite(value):
                raise make_encoding_error(NonFiniteError())
            return float(value)
        case str():
            return _check_encodable(str.__str__(value))
        case np.ndarray() | np.generic():
            if value.dtype.kind == "f":
                value = value.astype(np.float64)  # Python's float
            plain = value.dtype.kind in "biu" or (value.dtype.kind == "f" and bool(np.isfinite(value).all()))
            return value.tolist() if plain else to_jsonable(value.tolist())
        case torch.Tensor():
            tensor = value.detach().cpu()
            return to_jsonable((tensor.float() if tensor.is_floating_point() else tensor).numpy())
        case Mapping():
            return {_check_encodable(str(key)): to_jsonable(part) for key, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_jsonable(part) for part in value]
        case bytes():
            return base64.b64encode(value).decode()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_jsonable(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "save") and hasattr(value, "getbands"):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode()
    raise InferenceFailed(f"the model's pipeline returns a {type(value).__name__}, which JSON has no form for")


def _check_encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise make_encoding_error(error) from None
    return text

"""Conversion of tensors between numpy arrays and JSON lists or bytes.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_runtime.api.http.json_body import encode
from hf_runtime.contract.errors import InvalidRequest

#: Datatypes that numpy has, little-endian as in requests and responses.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

BYTES = "BYTES"
#: Upper half of an FP32; numpy has no such type.
BF16 = "BF16"

#: Types of JSON values by kind of dtype, each with its name in error messages.
_JSON_TYPES: Mapping[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "u": (frozenset({int}), "whole numbers"),
    "i": (frozenset({int}), "whole numbers"),
    "f": (frozenset({int, float}), "numbers"),
}

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array.

    Attributes:
        values: of the tensor's shape; elements of BYTES are str or bytes.
    """

    name: str
    datatype: str
    values: npt.NDArray[Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def get_datatype(dtype: np.dtype[Any]) -> str | None:
    """Return the protocol's name of a numeric numpy type; None if it has none."""
    return _DATATYPES.get(dtype.newbyteorder("<"))


def from_json(data: Sequence[Any], datatype: str, shape: Sequence[int], path: str) -> npt.NDArray[Any]:
    """Return the array of a JSON list, nested like the shape or flat in row-major order.

    Args:
        path: of the list in the request.

    Raises:
        InvalidRequest: the list does not match shape and datatype.
    """
    if datatype in ("FP16", BF16):
        raise InvalidRequest(f"{datatype} has no form in JSON, send it as binary data", field=path)
    elements = _flatten(data, shape, path)
    if datatype == BYTES:
        if not set(map(type, elements)) <= {str}:
            raise InvalidRequest("must hold strings, as BYTES do in JSON", field=path)
        return _reshape(to_bytes_array(elements), shape, path)
    dtype = DTYPES[datatype]
    allowed, expected = _JSON_TYPES[dtype.kind]
    if not set(map(type, elements)) <= allowed:
        raise InvalidRequest(f"must hold {expected}, as {datatype} does", field=path)
    try:
        with np.errstate(over="raise"):
            values = np.array(elements, dtype)
    except (OverflowError, FloatingPointError):
        raise InvalidRequest(f"holds a number that {datatype} cannot", field=path) from None
    return _reshape(values, shape, path)


def from_binary(data: memoryview, datatype: str, shape: Sequence[int], path: str) -> npt.NDArray[Any]:
    """Return the array of bytes in row-major order; a numeric array shares their memory.

    Raises:
        InvalidRequest: there are more or fewer bytes than shape and datatype say.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return _reshape(to_bytes_array(_split_byte_strings(data, count, path)), shape, path)
    dtype = np.dtype("<u2") if datatype == BF16 else DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise InvalidRequest(
            f"{list(shape)} of {datatype} takes {count * dtype.itemsize} bytes, {len(data)} given", field=path
        )
    values = np.frombuffer(data, dtype)
    if datatype == BF16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return _reshape(values, shape, path)


def to_json(tensor: Tensor) -> list[str] | npt.NDArray[Any]:
    """Return a tensor's elements as a flat list or array, for `json_body.encode`.

    Raises:
        InvalidRequest: JSON has no form for an element.
    """
    if tensor.datatype == BYTES:
        return [element if isinstance(element, str) else _decode(element, tensor) for element in tensor.values.flat]
    if tensor.values.dtype.kind == "f" and not np.isfinite(tensor.values).all():
        raise InvalidRequest(f"{tensor.name} holds NaN or infinity, ask for it as binary data", field="outputs")
    return np.ascontiguousarray(tensor.values).reshape(-1)


def to_binary(tensor: Tensor) -> bytes:
    """Return a tensor's elements as bytes in row-major order; each of BYTES follows its length."""
    if tensor.datatype != BYTES:
        return tensor.values.astype(DTYPES[tensor.datatype], copy=False).tobytes()
    elements = [element.encode() if isinstance(element, str) else element for element in tensor.values.flat]
    return b"".join(chain.from_iterable((_LENGTH.pack(len(element)), element) for element in elements))


def to_bytes_array(elements: Sequence[Any]) -> npt.NDArray[Any]:
    """Return the values of a BYTES tensor of one dimension."""
    values = np.empty(len(elements), dtype=object)
    values[:] = elements
    return values


def to_json_array(contents: Sequence[Any]) -> npt.NDArray[Any]:
    """Return the values of a BYTES tensor of one dimension, each the JSON of an object."""
    return to_bytes_array([encode(content).decode() for content in contents])


def _flatten(data: Sequence[Any], shape: Sequence[int], path: str) -> Sequence[Any]:
    """Return the elements of a flat or nested list.

    It works level by level, without recursion, because lists may be nested deeply.
    """
    count = math.prod(shape)
    if not any(isinstance(element, list) for element in data):
        if len(data) != count:
            raise InvalidRequest(f"{list(shape)} has {count} elements, {len(data)} given", field=path)
        return data
    level: Sequence[Any] = [data]
    for size in shape:
        if any(not isinstance(part, list) or len(part) != size for part in level):
            raise InvalidRequest(f"is not nested as the shape {list(shape)} says", field=path)
        level = list(chain.from_iterable(level))
    return level


def _reshape(values: npt.NDArray[Any], shape: Sequence[int], path: str) -> npt.NDArray[Any]:
    """Return values in a shape with the same number of elements.

    numpy refuses a huge shape even if it has no elements.
    """
    try:
        return values.reshape(shape)
    except ValueError:
        raise InvalidRequest(f"{list(shape)} is no shape of an array", field=path) from None


def _split_byte_strings(data: memoryview, count: int, path: str) -> list[bytes]:
    elements, offset = [], 0
    while offset < len(data):
        start = offset + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, offset)[0] if start <= len(data) else start
        if end > len(data):
            raise InvalidRequest("ends within an element of BYTES, each is led by its length in 4 bytes", field=path)
        elements.append(bytes(data[start:end]))
        offset = end
    if len(elements) != count:
        raise InvalidRequest(f"the shape says {count} elements of BYTES, {len(elements)} given", field=path)
    return elements


def _decode(element: bytes, tensor: Tensor) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{tensor.name} is not UTF-8, ask for it as binary data", field="outputs") from None

"""Tensors on their way in and out: JSON lists or bytes, and numpy arrays.

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

#: The datatypes that have a form in numpy, which is little-endian on the wire.
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
#: The upper half of an FP32; numpy has no such type.
BF16 = "BF16"

#: Python's types of JSON values, by kind of dtype.
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


def datatype_of(dtype: np.dtype[Any]) -> str | None:
    """The protocol's name of a numpy type of numbers, if it has one."""
    return _DATATYPES.get(dtype.newbyteorder("<"))


def from_json(data: Sequence[Any], datatype: str, shape: Sequence[int], place: str) -> npt.NDArray[Any]:
    """Elements of a JSON list, nested like the shape or flat in row-major order.

    Args:
        place: what the list is called in the request.

    Raises:
        InvalidRequest: the list does not hold what shape and datatype say.
    """
    if datatype in ("FP16", BF16):
        raise InvalidRequest(f"{datatype} has no form in JSON, send it as binary data", field=place)
    elements = _flat(data, shape, place)
    if datatype == BYTES:
        if not set(map(type, elements)) <= {str}:
            raise InvalidRequest("must hold strings, as BYTES do in JSON", field=place)
        return _shaped(_objects(elements), shape, place)
    dtype = DTYPES[datatype]
    allowed, what = _JSON_TYPES[dtype.kind]
    if not set(map(type, elements)) <= allowed:
        raise InvalidRequest(f"must hold {what}, as {datatype} does", field=place)
    try:
        with np.errstate(over="raise"):
            values = np.array(elements, dtype)
    except (OverflowError, FloatingPointError):
        raise InvalidRequest(f"holds a number that {datatype} cannot", field=place) from None
    return _shaped(values, shape, place)


def from_binary(data: memoryview, datatype: str, shape: Sequence[int], place: str) -> npt.NDArray[Any]:
    """Elements from bytes, in row-major order; an array of numbers shares their memory.

    Raises:
        InvalidRequest: there are more or fewer bytes than shape and datatype say.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return _shaped(_objects(_byte_strings(data, count, place)), shape, place)
    dtype = np.dtype("<u2") if datatype == BF16 else DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise InvalidRequest(
            f"{list(shape)} of {datatype} takes {count * dtype.itemsize} bytes, {len(data)} given", field=place
        )
    values = np.frombuffer(data, dtype)
    if datatype == BF16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return _shaped(values, shape, place)


def to_json(tensor: Tensor) -> Any:
    """The flat list of a tensor's elements, for `json_body.encode`.

    Raises:
        InvalidRequest: there is an element that JSON has no form for.
    """
    if tensor.datatype == BYTES:
        return [element if isinstance(element, str) else _decoded(element, tensor) for element in tensor.values.flat]
    if tensor.values.dtype.kind == "f" and not np.isfinite(tensor.values).all():
        raise InvalidRequest(f"{tensor.name} holds NaN or infinity, ask for it as binary data", field="outputs")
    return np.ascontiguousarray(tensor.values).reshape(-1)


def to_binary(tensor: Tensor) -> bytes:
    """The tensor's elements as bytes in row-major order, each of BYTES led by its length."""
    if tensor.datatype != BYTES:
        return tensor.values.astype(DTYPES[tensor.datatype], copy=False).tobytes()
    elements = [element.encode() if isinstance(element, str) else element for element in tensor.values.flat]
    return b"".join(chain.from_iterable((_LENGTH.pack(len(element)), element) for element in elements))


def strings(elements: Sequence[Any]) -> npt.NDArray[Any]:
    """A BYTES tensor of one dimension."""
    return _objects(elements)


def json_strings(contents: Sequence[Any]) -> npt.NDArray[Any]:
    """A BYTES tensor of one JSON document each."""
    return strings([encode(content).decode() for content in contents])


def _flat(data: Sequence[Any], shape: Sequence[int], place: str) -> Sequence[Any]:
    """The elements of a list that is flat or nested throughout, level by level: lists may be nested deeply."""
    count = math.prod(shape)
    if not any(isinstance(element, list) for element in data):
        if len(data) != count:
            raise InvalidRequest(f"{list(shape)} has {count} elements, {len(data)} given", field=place)
        return data
    level: Sequence[Any] = [data]
    for size in shape:
        if any(not isinstance(part, list) or len(part) != size for part in level):
            raise InvalidRequest(f"is not nested as the shape {list(shape)} says", field=place)
        level = list(chain.from_iterable(level))
    return level


def _objects(elements: Sequence[Any]) -> npt.NDArray[Any]:
    values = np.empty(len(elements), dtype=object)
    values[:] = elements
    return values


def _shaped(values: npt.NDArray[Any], shape: Sequence[int], place: str) -> npt.NDArray[Any]:
    """The same, of a shape that has as many elements; one of none may still be more than numpy counts to."""
    try:
        return values.reshape(shape)
    except ValueError:
        raise InvalidRequest(f"{list(shape)} is no shape of an array", field=place) from None


def _byte_strings(data: memoryview, count: int, place: str) -> list[bytes]:
    elements, at = [], 0
    while at < len(data):
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, at)[0] if start <= len(data) else start
        if end > len(data):
            raise InvalidRequest("ends within an element of BYTES, each is led by its length in 4 bytes", field=place)
        elements.append(bytes(data[start:end]))
        at = end
    if len(elements) != count:
        raise InvalidRequest(f"the shape says {count} elements of BYTES, {len(elements)} given", field=place)
    return elements


def _decoded(element: bytes, tensor: Tensor) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{tensor.name} is not UTF-8, ask for it as binary data", field="outputs") from None

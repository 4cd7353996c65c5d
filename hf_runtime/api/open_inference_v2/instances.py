"""Conversion of a request's tensors to instances, according to a model's signature."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import orjson

from hf_runtime.api.open_inference_v2.tensors import BYTES, Tensor
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.signature import Signature


def to_instances(tensors: Sequence[Tensor], signature: Signature) -> list[Any]:
    """Return one instance per element along the first dimension, which is equal in all tensors.

    If a model takes one text, a single tensor of strings may have any name, as in KServe's server.

    Raises:
        InvalidRequest: the tensors do not match the signature.
    """
    counts = {len(tensor.values) for tensor in tensors}
    if len(counts) > 1:
        sizes = ", ".join(f"{tensor.name[:100]} {len(tensor.values)}" for tensor in tensors)
        raise InvalidRequest(f"differ in their first dimension, the number of instances: {sizes}", field="inputs")
    (count,) = counts
    if count == 0:
        raise InvalidRequest("must hold at least one instance", field="inputs[0].shape")
    if any(tensor.parameters.get("content_type") == "json" for tensor in tensors):
        return _parse_documents(tensors)
    if not signature.instances:
        return _to_plain_instances(tensors, count)
    named = _match_inputs(tensors, signature)
    columns = {name: _to_column(tensor, signature, path) for name, (tensor, path) in named.items()}
    if len(columns) == 1:
        return next(iter(columns.values()))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def locate_instance(tensors: Sequence[Tensor], index: int) -> str:
    """Return the path of an instance in the request."""
    return f"inputs[0].data[{index}]" if len(tensors) == 1 else f"inputs[*].data[{index}]"


def _parse_documents(tensors: Sequence[Tensor]) -> list[Any]:
    if len(tensors) > 1:
        raise InvalidRequest("a tensor of JSON documents holds whole instances and stands alone", field="inputs")
    _check_one_per_instance(tensors[0], "a tensor of JSON documents", "inputs[0]")
    instances = []
    for index, element in enumerate(tensors[0].values.flat):
        try:
            instances.append(orjson.loads(element))
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"is not JSON: {error}", field=f"inputs[0].data[{index}]") from None
    return instances


def _to_plain_instances(tensors: Sequence[Tensor], count: int) -> list[Any]:
    """Return instances of a model without a signature.

    Several tensors become fields of objects.
    """
    columns = [[_to_plain(tensor.values[index]) for index in range(count)] for tensor in tensors]
    if len(columns) == 1:
        return columns[0]
    return [dict(zip((tensor.name for tensor in tensors), row, strict=True)) for row in zip(*columns, strict=True)]


def _to_plain(element: Any) -> Any:
    match element:
        case bytes():
            try:
                return element.decode()
            except UnicodeDecodeError:  # an image or audio, which instances have as base64
                return b64encode(element).decode()
        case np.ndarray() if element.dtype == object:
            return [_to_plain(part) for part in element]
        case np.generic():
            return element.item()
        case _:
            return element


def _match_inputs(tensors: Sequence[Tensor], signature: Signature) -> Mapping[str, tuple[Tensor, str]]:
    """Return the tensors by the signature's names, each with its path in the request."""
    known = [tensor.name for tensor in signature.inputs]
    usual = signature.instances[0]
    if len(tensors) == 1 and tensors[0].name not in known and tensors[0].datatype == BYTES and len(usual) == 1:
        return {usual[0]: (tensors[0], "inputs[0]")}
    named = {tensor.name: (tensor, f"inputs[{number}]") for number, tensor in enumerate(tensors)}
    for name, (_, path) in named.items():
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            hint = f"did you mean '{nearest[0]}'?" if nearest else f"this model reads {', '.join(known)}"
            raise InvalidRequest(f"unknown input '{name[:100]}', {hint}", field=f"{path}.name")
    if set(named) not in map(set, signature.instances):
        forms = ", or ".join(" and ".join(form) for form in signature.instances)
        raise InvalidRequest(f"an instance is made of {forms}; {' and '.join(named)} given", field="inputs")
    # In the signature's order, so that equal instances are equal in whatever order they were sent.
    return {name: named[name] for name in known if name in named}


def _to_column(tensor: Tensor, signature: Signature, path: str) -> list[Any]:
    known = next((spec for spec in signature.inputs if spec.name == tensor.name), signature.inputs[0])
    values = tensor.values
    if known.datatype == BYTES:
        if tensor.datatype != BYTES:
            raise InvalidRequest(f"{known.name} is BYTES, {tensor.datatype} given", field=f"{path}.datatype")
        _check_one_per_instance(tensor, known.name, path)
        return [_decode_text(element, f"{path}.data[{index}]") for index, element in enumerate(values.flat)]
    if values.dtype.kind not in "iu":
        raise InvalidRequest(f"{known.name} is {known.datatype}, {tensor.datatype} given", field=f"{path}.datatype")
    if values.ndim != len(known.shape):
        raise InvalidRequest(f"{known.name} is {list(known.shape)}, {list(values.shape)} given", field=f"{path}.shape")
    return list(values.tolist())


def _check_one_per_instance(tensor: Tensor, name: str, path: str) -> None:
    if tensor.values.size != len(tensor.values):
        raise InvalidRequest(f"{name} is [n] or [n, 1], {list(tensor.values.shape)} given", field=f"{path}.shape")


def _decode_text(element: str | bytes, path: str) -> str:
    if isinstance(element, str):
        return element
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("is not UTF-8", field=path) from None

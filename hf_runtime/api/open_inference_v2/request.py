"""Inference requests: JSON, perhaps followed by tensors as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import uuid4

from pydantic import Field, WithJsonSchema

from hf_runtime.api.open_inference_v2.schema import RequestModel, parse_document
from hf_runtime.api.open_inference_v2.tensors import BF16, BYTES, DTYPES, Tensor, from_binary, from_json
from hf_runtime.contract.errors import InvalidRequest

#: Header with the number of bytes of the JSON, if binary tensors follow it.
HEADER_LENGTH = "Inference-Header-Content-Length"

_DATATYPES = frozenset((*DTYPES, BYTES, BF16))

#: Checked later, for a message that lists the known datatypes.
Datatype = Annotated[str, Field(json_schema_extra={"enum": sorted(_DATATYPES)})]

#: Checked later, in one pass over all elements; pydantic would visit each one.
_Data = Annotated[
    list[Any] | None,
    WithJsonSchema({"type": ["array", "null"], "items": {"type": ["string", "number", "boolean", "array"]}}),
]


class InputParameters(RequestModel):
    """Parameters of an input; `content_type` says if BYTES are texts or JSON documents."""

    binary_data_size: int | None = Field(None, ge=0)
    content_type: str | None = Field(None, pattern="^(str|json)$")


class RequestInput(RequestModel):
    """A tensor: elements, nested or flat, or `binary_data_size` bytes after the JSON."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=32)
    datatype: Datatype
    parameters: InputParameters | None = None
    data: _Data = None


class OutputParameters(RequestModel):
    """Parameters of an output; `binary_data` requests bytes after the JSON."""

    binary_data: bool | None = None


class RequestOutput(RequestModel):
    """A requested output."""

    name: str
    parameters: OutputParameters | None = None


class InferenceDocument(RequestModel):
    """JSON of a request; `model_name` and `model_version` are accepted and ignored."""

    id: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[RequestInput] = Field(min_length=1)
    outputs: list[RequestOutput] | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request whose tensors match their shapes and datatypes.

    Attributes:
        parameters: of the model, for all instances.
        outputs: names of the requested outputs, each with true if it is to be binary; None for all.
        binary: true if outputs that do not say it themselves are to be binary.
    """

    id: str
    inputs: tuple[Tensor, ...]
    parameters: dict[str, Any]
    outputs: Mapping[str, bool] | None
    binary: bool


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """Return the request in a body.

    Args:
        header_length: the header `Inference-Header-Content-Length`, if there is one.

    Raises:
        InvalidRequest: names the field that is missing or wrong.
    """
    end = _parse_json_length(body, header_length)
    document = parse_document(InferenceDocument, body[:end])
    rest = memoryview(body)[end:]
    inputs: list[Tensor] = []
    for number, given in enumerate(document.inputs):
        tensor, rest = _parse_tensor(given, f"inputs[{number}]", rest)
        if any(tensor.name == other.name for other in inputs):
            raise InvalidRequest(f"there are two inputs named {tensor.name[:100]}", field=f"inputs[{number}].name")
        inputs.append(tensor)
    if rest:
        raise InvalidRequest(f"the body has {len(rest)} bytes behind the JSON that no input's binary_data_size counts")
    parameters = dict(document.parameters or {})
    binary = parameters.pop("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InvalidRequest("must be true or false", field="parameters.binary_data_output")
    outputs = _parse_outputs(document.outputs, binary) if document.outputs else None
    return InferRequest(document.id or str(uuid4()), tuple(inputs), parameters, outputs, binary)


def _parse_json_length(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    if not (header_length.isascii() and header_length.isdecimal()) or len(header_length) > 18:
        raise InvalidRequest("must be a number of bytes", field=HEADER_LENGTH)
    length = int(header_length)
    if length > len(body):
        raise InvalidRequest(f"is {length}, and the body has {len(body)} bytes", field=HEADER_LENGTH)
    return length


def _parse_tensor(given: RequestInput, path: str, rest: memoryview) -> tuple[Tensor, memoryview]:
    """Return a tensor, and the rest of the bytes after the JSON."""
    if given.datatype not in _DATATYPES:
        raise InvalidRequest(
            f"{given.datatype[:100]!r} is none of {', '.join(sorted(_DATATYPES))}", field=f"{path}.datatype"
        )
    parameters = given.parameters or InputParameters()
    size = parameters.binary_data_size
    if size is not None:
        if given.data is not None:
            raise InvalidRequest("is not sent along with binary data", field=f"{path}.data")
        if size > len(rest):
            raise InvalidRequest(
                f"is {size}, and {len(rest)} bytes are left behind the JSON "
                f"(whose length is the header {HEADER_LENGTH})",
                field=f"{path}.parameters.binary_data_size",
            )
        values = from_binary(rest[:size], given.datatype, given.shape, path)
        rest = rest[size:]
    elif given.data is None:
        raise InvalidRequest("field required", field=f"{path}.data")
    else:
        values = from_json(given.data, given.datatype, given.shape, f"{path}.data")
    if parameters.content_type == "json" and given.datatype != BYTES:
        raise InvalidRequest("json is for BYTES", field=f"{path}.parameters.content_type")
    return Tensor(given.name, given.datatype, values, parameters.model_dump(exclude_none=True)), rest


def _parse_outputs(requested: list[RequestOutput], binary: bool) -> dict[str, bool]:
    outputs = {}
    for number, output in enumerate(requested):
        if output.name in outputs:
            raise InvalidRequest(f"{output.name[:100]} is asked for twice", field=f"outputs[{number}].name")
        own = output.parameters.binary_data if output.parameters else None
        outputs[output.name] = binary if own is None else own
    return outputs

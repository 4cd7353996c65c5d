"""An inference request as it is read: JSON, and behind it the bytes of tensors that came as binary data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import uuid4

from pydantic import Field, WithJsonSchema

from hf_runtime.api.open_inference_v2.schema import RequestModel, read
from hf_runtime.api.open_inference_v2.tensors import BF16, BYTES, DTYPES, Tensor, from_binary, from_json
from hf_runtime.contract.errors import InvalidRequest

#: Bytes of the JSON at the beginning of a body that goes on with binary tensors.
HEADER_LENGTH = "Inference-Header-Content-Length"

_DATATYPES = frozenset((*DTYPES, BYTES, BF16))

#: Checked later, for a message that says what is known.
Datatype = Annotated[str, Field(json_schema_extra={"enum": sorted(_DATATYPES)})]

#: Checked later, in one pass; here every element would be visited.
_Data = Annotated[
    list[Any] | None,
    WithJsonSchema({"type": ["array", "null"], "items": {"type": ["string", "number", "boolean", "array"]}}),
]


class InputParameters(RequestModel):
    """`content_type` tells what elements of BYTES are: texts, or instances as JSON documents."""

    binary_data_size: int | None = Field(None, ge=0)
    content_type: str | None = Field(None, pattern="^(str|json)$")


class RequestInput(RequestModel):
    """A tensor, its elements nested like the shape or flat, or `binary_data_size` bytes behind the JSON."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=32)
    datatype: Datatype
    parameters: InputParameters | None = None
    data: _Data = None


class OutputParameters(RequestModel):
    """`binary_data` asks for bytes behind the JSON."""

    binary_data: bool | None = None


class RequestOutput(RequestModel):
    """An output that is asked for."""

    name: str
    parameters: OutputParameters | None = None


class InferenceDocument(RequestModel):
    """The JSON of a request. `model_name` and `model_version` are what KServe's client repeats from the path."""

    id: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[RequestInput] = Field(min_length=1)
    outputs: list[RequestOutput] | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request whose tensors are what their shapes and datatypes say.

    Attributes:
        parameters: of the model, for all instances.
        outputs: names of the outputs that are asked for, each with whether it is to be binary; None for all.
        binary: whether outputs that say nothing themselves are to be binary.
    """

    id: str
    inputs: tuple[Tensor, ...]
    parameters: dict[str, Any]
    outputs: Mapping[str, bool] | None
    binary: bool


def parse(body: bytes, header_length: str | None) -> InferRequest:
    """Read a request.

    Args:
        header_length: the header `Inference-Header-Content-Length`, if there is one.

    Raises:
        InvalidRequest: names the field that is missing or wrong.
    """
    end = _json_length(body, header_length)
    document = read(InferenceDocument, body[:end])
    rest = memoryview(body)[end:]
    inputs: list[Tensor] = []
    for number, given in enumerate(document.inputs):
        tensor, rest = _tensor(given, f"inputs[{number}]", rest)
        if any(tensor.name == other.name for other in inputs):
            raise InvalidRequest(f"there are two inputs named {tensor.name[:100]}", field=f"inputs[{number}].name")
        inputs.append(tensor)
    if rest:
        raise InvalidRequest(f"the body has {len(rest)} bytes behind the JSON that no input's binary_data_size counts")
    parameters = dict(document.parameters or {})
    binary = parameters.pop("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InvalidRequest("must be true or false", field="parameters.binary_data_output")
    outputs = _outputs(document.outputs, binary) if document.outputs else None
    return InferRequest(document.id or str(uuid4()), tuple(inputs), parameters, outputs, binary)


def _json_length(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    if not (header_length.isascii() and header_length.isdecimal()) or len(header_length) > 18:
        raise InvalidRequest("must be a number of bytes", field=HEADER_LENGTH)
    length = int(header_length)
    if length > len(body):
        raise InvalidRequest(f"is {length}, and the body has {len(body)} bytes", field=HEADER_LENGTH)
    return length


def _tensor(given: RequestInput, place: str, rest: memoryview) -> tuple[Tensor, memoryview]:
    """A tensor, and what is left of the bytes behind the JSON."""
    if given.datatype not in _DATATYPES:
        raise InvalidRequest(
            f"{given.datatype[:100]!r} is none of {', '.join(sorted(_DATATYPES))}", field=f"{place}.datatype"
        )
    parameters = given.parameters or InputParameters()
    size = parameters.binary_data_size
    if size is not None:
        if given.data is not None:
            raise InvalidRequest("is not sent along with binary data", field=f"{place}.data")
        if size > len(rest):
            raise InvalidRequest(
                f"is {size}, and {len(rest)} bytes are left behind the JSON "
                f"(whose length is the header {HEADER_LENGTH})",
                field=f"{place}.parameters.binary_data_size",
            )
        values = from_binary(rest[:size], given.datatype, given.shape, place)
        rest = rest[size:]
    elif given.data is None:
        raise InvalidRequest("field required", field=f"{place}.data")
    else:
        values = from_json(given.data, given.datatype, given.shape, f"{place}.data")
    if parameters.content_type == "json" and given.datatype != BYTES:
        raise InvalidRequest("json is for BYTES", field=f"{place}.parameters.content_type")
    return Tensor(given.name, given.datatype, values, parameters.model_dump(exclude_none=True)), rest


def _outputs(asked: list[RequestOutput], binary: bool) -> dict[str, bool]:
    outputs = {}
    for number, output in enumerate(asked):
        if output.name in outputs:
            raise InvalidRequest(f"{output.name[:100]} is asked for twice", field=f"outputs[{number}].name")
        own = output.parameters.binary_data if output.parameters else None
        outputs[output.name] = binary if own is None else own
    return outputs

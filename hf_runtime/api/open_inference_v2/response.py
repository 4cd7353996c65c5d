"""Inference responses: JSON, perhaps followed by outputs as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NotRequired

import numpy.typing as npt
from pydantic import GetPydanticSchema
from starlette.responses import Response
from typing_extensions import TypedDict

from hf_runtime.api.http.json_body import encode, json_response
from hf_runtime.api.open_inference_v2.request import HEADER_LENGTH, Datatype, InferRequest
from hf_runtime.api.open_inference_v2.tensors import Tensor, to_binary, to_json
from hf_runtime.contract.answer_type import answer_type

#: Sent as a flat list.
_Elements = Annotated[
    list[str] | npt.NDArray[Any],
    GetPydanticSchema(lambda _, handler: handler(list[str] | list[float] | list[bool])),
]


@answer_type
class ResponseOutput(TypedDict):
    """A tensor: `data` in row-major order, or `binary_data_size` bytes after the JSON."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: NotRequired[dict[str, Any]]
    data: NotRequired[_Elements]


@answer_type
class InferenceResponse(TypedDict):
    """The requested outputs of all instances."""

    model_name: str
    id: str
    outputs: list[ResponseOutput]


def render_response(model_name: str, parsed: InferRequest, tensors: Sequence[Tensor]) -> Response:
    """Return the response to a request, each output in the requested format.

    Raises:
        InvalidRequest: an output has no form in JSON.
    """
    outputs, buffers = [], []
    for tensor in tensors:
        binary = parsed.binary if parsed.outputs is None else parsed.outputs[tensor.name]
        parameters = dict(tensor.parameters)
        if binary:
            buffer = to_binary(tensor)
            parameters["binary_data_size"] = len(buffer)
            buffers.append(buffer)
        # FP16 has no form in JSON; FP32 holds the same values.
        datatype = "FP32" if tensor.datatype == "FP16" and not binary else tensor.datatype
        output: ResponseOutput = {"name": tensor.name, "datatype": datatype, "shape": list(tensor.values.shape)}
        if parameters:
            output["parameters"] = parameters
        if not binary:
            output["data"] = to_json(tensor)
        outputs.append(output)
    document: InferenceResponse = {"model_name": model_name, "id": parsed.id, "outputs": outputs}
    if not buffers:
        return json_response(document)
    header = encode(document)
    return Response(
        b"".join((header, *buffers)),
        headers={HEADER_LENGTH: str(len(header))},
        media_type="application/octet-stream",
    )

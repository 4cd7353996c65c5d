"""An inference response: JSON, and behind it the bytes of the outputs that are wanted as binary data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from hf_runtime.api.http.json_body import encode, json_response
from hf_runtime.api.open_inference_v2.request import HEADER_LENGTH, InferRequest
from hf_runtime.api.open_inference_v2.tensors import Tensor, to_binary, to_json


def render(model_name: str, asked: InferRequest, tensors: Sequence[Tensor]) -> Response:
    """The answer to a request, each output in the form asked for.

    Raises:
        InvalidRequest: an output has no form in JSON.
    """
    outputs, buffers = [], []
    for tensor in tensors:
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.values.shape),
            "parameters": dict(tensor.parameters),
        }
        binary = asked.binary if asked.outputs is None else asked.outputs[tensor.name]
        if binary:
            buffer = to_binary(tensor)
            output["parameters"]["binary_data_size"] = len(buffer)
            buffers.append(buffer)
        elif tensor.datatype == "FP16":
            # It has no form in JSON; nothing is lost in the next larger one.
            output |= {"datatype": "FP32", "data": to_json(tensor)}
        else:
            output["data"] = to_json(tensor)
        if not output["parameters"]:
            del output["parameters"]
        outputs.append(output)
    document = {"model_name": model_name, "id": asked.id, "outputs": outputs}
    if not buffers:
        return json_response(document)
    header = encode(document)
    return Response(
        b"".join((header, *buffers)),
        headers={HEADER_LENGTH: str(len(header))},
        media_type="application/octet-stream",
    )

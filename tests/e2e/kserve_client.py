"""Calls of KServe's own client: `python kserve_client.py URL < calls.json`.

Run it with a Python that has the client.

A call is `{"protocol": "v1" or "v2", "method": …, "arguments": {…}}`. Arrays are nested lists. Tensors of a request are
`{"name", "datatype", "binary", "data"}`. Writes a JSON list of results; of a call that raised, `{"error": message}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, InferResponse
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def _tensor(given: dict[str, Any]) -> InferInput:
    array = np.array(given["data"], dtype=object if given["datatype"] == "BYTES" else np.int64)
    tensor = InferInput(given["name"], list(array.shape), given["datatype"])
    tensor.set_data_from_numpy(array, binary_data=given["binary"])
    return tensor


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Convert `data`: pass a dictionary unchanged, build an InferRequest from tensors."""
    if "tensors" not in given:
        return given
    outputs = [RequestedOutput(name, {"binary_data": True}) for name in given.pop("binary_outputs", [])]
    request = InferRequest(
        model_name=given["model_name"],
        infer_inputs=[_tensor(tensor) for tensor in given.pop("tensors")],
        request_id=given.pop("request_id", None),
        parameters=given.pop("parameters", None),
        request_outputs=outputs or None,
    )
    return {**given, "data": request}


def _plain(result: Any) -> Any:
    if not isinstance(result, InferResponse):
        return result
    outputs = [
        {"name": output.name, "datatype": output.datatype, "shape": output.shape, "data": output.data}
        for output in result.outputs
    ]
    return {"id": result.id, "model_name": result.model_name, "outputs": outputs}


async def _main(url: str, calls: list[dict[str, Any]]) -> list[Any]:
    results = []
    for call in calls:
        async with InferenceRESTClient(RESTConfig(protocol=call["protocol"])) as client:
            try:
                method = getattr(client, call["method"])
                results.append(_plain(await method(base_url=url, **_arguments(call["arguments"]))))
            except Exception as error:
                results.append({"error": str(error)})
    return results


if __name__ == "__main__":
    json.dump(asyncio.run(_main(sys.argv[1], json.load(sys.stdin))), sys.stdout)

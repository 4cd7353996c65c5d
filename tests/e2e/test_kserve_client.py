"""Promise: KServe's own `InferenceRESTClient` works unchanged with V1 and V2.

Tensors of V2 are sent as JSON and as binary data.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.e2e.server import Server
from tests.project import ROOT
from tests.tiny import CORPUS

pytestmark = pytest.mark.xdist_group("seven")

#: Created by `make test`, because the package requires older versions of the server's dependencies.
_PYTHON = ROOT / ".venv" / "kserve" / "bin" / "python"


def _call(server: Server, *calls: tuple[str, str, dict[str, Any]]) -> list[Any]:
    if not _PYTHON.exists():
        pytest.skip("the client's environment is not there: `make test` makes it")
    encoded = [{"protocol": p, "method": method, "arguments": arguments} for p, method, arguments in calls]
    script = Path(__file__).with_name("kserve_client.py")
    done = subprocess.run(
        [_PYTHON, script, server.url], input=json.dumps(encoded), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout)
    return results


def _v1(server: Server, task: str, instances: list[Any]) -> Any:
    answer = requests.post(f"{server.url}/v1/models/{task}:predict", json={"instances": instances}, timeout=60)
    return answer.json()["predictions"]


def test_liveness_and_readiness_by_both_protocols(seven_server: Server) -> None:
    model = {"model_name": "fill-mask"}
    unknown = {"model_name": "nope"}
    *well, lost, missing = _call(
        seven_server,
        ("v1", "is_server_live", {}),
        ("v1", "is_model_ready", model),
        ("v2", "is_server_live", {}),
        ("v2", "is_server_ready", {}),
        ("v2", "is_model_ready", model),
        ("v2", "is_model_ready", unknown),
        ("v1", "is_model_ready", unknown),
    )
    assert well == [True] * 5
    assert lost is False
    assert missing["error"].startswith("Model with name nope does not exist.")


def test_v1_predictions_and_refusals(seven_server: Server) -> None:
    good = {"model_name": "text-classification", "data": {"instances": CORPUS[:2]}}
    bad = {"model_name": "text-classification", "data": {"instances": [1]}}
    answer, refused = _call(seven_server, ("v1", "infer", good), ("v1", "infer", bad))
    assert answer == {"predictions": _v1(seven_server, "text-classification", CORPUS[:2])}
    assert refused["error"].startswith("instances[0]: must be a string or an object with text")


@pytest.mark.parametrize("binary", [False, True])
def test_v2_tensors_in_json_and_in_binary(seven_server: Server, binary: bool) -> None:
    text = {"name": "input-0", "datatype": "BYTES", "binary": binary, "data": CORPUS[:2]}
    ids = {"name": "input_ids", "datatype": "INT64", "binary": binary, "data": [[2, 5, 3], [2, 6, 3]]}
    binary_outputs = {"binary_outputs": ["output-0"]} if binary else {}
    labels, vectors, refused = _call(
        seven_server,
        (
            "v2",
            "infer",
            {
                "model_name": "text-classification",
                "tensors": [text],
                "request_id": "42",
                "parameters": {"top_k": 2},
                **binary_outputs,
            },
        ),
        ("v2", "infer", {"model_name": "feature-extraction", "tensors": [ids], **binary_outputs}),
        ("v2", "infer", {"model_name": "feature-extraction", "tensors": [{**ids, "data": [[2, -1]]}]}),
    )
    assert (labels["id"], labels["model_name"]) == ("42", "text-classification")
    documents = [json.loads(document) for document in labels["outputs"][0]["data"]]
    expected = _v1(seven_server, "text-classification", CORPUS[:2])
    assert [document[0] for document in documents] == [prediction[0] for prediction in expected]
    assert all(len(document) == 2 for document in documents)
    (output,) = vectors["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [2, 32])
    expected = _v1(seven_server, "feature-extraction", [[2, 5, 3], [2, 6, 3]])
    np.testing.assert_allclose(np.reshape(output["data"], (2, 32)), expected, atol=1e-6)
    assert refused["error"].startswith("inputs[0].data[0]: [1]: must be a token of the model")


def test_the_plain_dictionary_of_a_v2_request(seven_server: Server) -> None:
    text = {"name": "input-0", "shape": [1], "datatype": "BYTES", "data": ["a [MASK]"]}
    (answer,) = _call(seven_server, ("v2", "infer", {"model_name": "fill-mask", "data": {"inputs": [text]}}))
    assert json.loads(answer["outputs"][0]["data"][0]) == _v1(seven_server, "fill-mask", ["a [MASK]"])[0]

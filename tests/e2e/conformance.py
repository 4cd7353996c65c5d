"""Requests with the answers of KServe's Hugging Face server and those expected here.

KServe's answers were observed on huggingfaceserver of kserve 0.21 with its Hugging Face backend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Case:
    """Request with its answers.

    Attributes:
        path: `x` is a model that classifies text, `broken` one that failed to load, `nope` one that does not exist.
        kserve: status and body of KServe's server, as shown in the table.
        status: status of the answer here.
        body: fields that the answer here contains at least.
        shown: name of the request in the table, if its body alone is not clear.
        answered: headers of the answer here.
    """

    method: str
    path: str
    kserve: str
    status: int
    body: Mapping[str, Any] | None
    sent: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    shown: str | None = None
    answered: Mapping[str, str] = field(default_factory=dict)

    @property
    def request(self) -> str:
        """First column of the table."""
        if self.shown is not None:
            return self.shown
        sent = "" if self.sent is None else f" `{self.sent if isinstance(self.sent, str) else json.dumps(self.sent)}`"
        return f"`{self.method} {self.path}`{sent}"


_PREDICT, _INFER = "/v1/models/x:predict", "/v2/models/x/infer"
_EVENT = {"specversion": "1.0", "id": "1", "type": "io.kserve.inference.request", "source": "client"}
_RESPONSE = "io.kserve.inference.response"
_NOPE = {"error": "Model with name nope does not exist."}
_NOT_FOUND = '404 `{"error":"Model with name nope does not exist."}`'
_BROKEN = "Model with name broken is not ready."
_NOT_READY = f'503 `{{"error":"{_BROKEN}"}}`'


def _tensor(**changed: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["good"], **changed}]}


CASES = [
    Case("GET", "/", '200 `{"status":"alive"}`', 200, {"status": "alive"}),
    Case("GET", "/v1/models", '200 `{"models":["x"]}`', 200, {"models": ["x", "broken"]}),
    Case("GET", "/v1/models/x", '200 `{"name":"x","ready":true}`', 200, {"name": "x", "ready": True}),
    Case("GET", "/v1/models/nope", _NOT_FOUND, 404, _NOPE),
    Case("GET", "/v1/models/broken", _NOT_READY, 503, {}),
    Case("POST", _PREDICT, "200, class numbers", 200, {}, {"instances": ["good"]}),
    Case("POST", _PREDICT, "200", 200, {}, {"inputs": ["good"]}),
    Case("POST", _PREDICT, "500", 400, {}, {}),
    Case("POST", _PREDICT, "200", 400, {"error": "instances: must be a list"}, {"instances": "good"}),
    Case("POST", _PREDICT, "500", 400, {"error": "instances: must hold at least one instance"}, {"instances": []}),
    Case("POST", _PREDICT, "500", 400, {}, {"instances": ["good", 1]}),
    Case("POST", _PREDICT, '400 `{"error":"Unrecognized request format: …"}`', 400, {}, "{"),
    Case(
        "POST", _PREDICT, "500", 200, {}, {"instances": ["good"]}, {"content-type": "application/json; charset=utf-8"},
        shown=f"`POST {_PREDICT}` as `application/json; charset=utf-8`",
    ),
    Case(
        "POST", _PREDICT, f"200, an event of the type `{_RESPONSE}`", 200, {"type": _RESPONSE},
        {**_EVENT, "data": {"instances": ["good"]}}, {"content-type": "application/cloudevents+json"},
        shown=f"`POST {_PREDICT}` as `application/cloudevents+json`",
    ),
    Case(
        "POST", _PREDICT, f"200, `ce-type: {_RESPONSE}`", 200, {}, {"instances": ["good"]},
        {f"ce-{name}": value for name, value in _EVENT.items()},
        shown=f"`POST {_PREDICT}` with `ce-` headers", answered={"ce-type": _RESPONSE},
    ),
    Case("POST", "/v1/models/x:explain", "501", 501, {"error": "this server has no explainer"}, {"instances": ["a"]}),
    Case("GET", "/v2", '200 `{"name","version","extensions"}`', 200, {"name": "hugging-face-runtime"}),
    Case("GET", "/v2/health/live", '200 `{"live":true}`', 200, {"live": True}),
    Case("GET", "/v2/health/ready", '200 `{"ready":true}`, even without a model', 503, {}),
    Case("GET", "/v2/models", '200 `{"models":["x"]}`', 200, {"models": ["x", "broken"]}),
    Case("GET", "/v2/models/x", "200, no inputs, no outputs", 200, {"name": "x"}),
    Case("GET", "/v2/models/x/ready", '200 `{"name":"x","ready":true}`', 200, {"name": "x", "ready": True}),
    Case("GET", "/v2/models/broken/ready", _NOT_READY, 503, {}),
    Case("GET", "/v2/models/nope", _NOT_FOUND, 404, _NOPE),
    Case("POST", _INFER, "200, class numbers", 200, {"model_name": "x"}, _tensor()),
    Case("POST", _INFER, "200, `id` echoed", 200, {"id": "42"}, {"id": "42", **_tensor()}),
    Case(
        "POST", _INFER, "200, the tensors behind the JSON", 200, None,
        {**_tensor(), "outputs": [{"name": "score", "parameters": {"binary_data": True}}]},
        answered={"content-type": "application/octet-stream"},
    ),
    Case("POST", _INFER, "422", 400, {"error": "inputs: Field required"}, {}),
    Case(
        "POST", _INFER, "200, not checked", 400, {"error": "inputs[0].data: [3] has 3 elements, 1 given"},
        _tensor(shape=[3]),
    ),
    Case("POST", _INFER, "400", 400, {}, _tensor(datatype="TEXT")),
    Case("POST", _INFER, "400", 400, {}, {**_tensor(), "outputs": [{"name": "y"}]}),
    Case(
        "POST", "/v2/models/x/versions/1/infer", "501", 501, {"error": "Model versioning not supported yet."}, _tensor()
    ),
    Case("POST", "/v2/repository/index", "not routed", 200, None),
    Case(
        "POST", "/v2/repository/models/x/load", '200 `{"name":"x","load":true}`', 200, {"name": "x", "load": True},
        shown="`POST /v2/repository/models/x/load` (here with `MODEL_MANAGEMENT=true`)",
    ),
    Case("POST", "/v2/repository/models/nope/unload", _NOT_FOUND, 404, _NOPE),
]  # fmt: skip

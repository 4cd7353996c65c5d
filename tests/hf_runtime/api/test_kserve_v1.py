"""Promise: V1 answers as KServe does where KServe is right, and with a clear 4xx elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from hf_runtime.api.app import create_app
from hf_runtime.api.inference import Models
from hf_runtime.rpc.messages import ModelState
from hf_runtime.settings import ServerSettings
from tests.hf_runtime.api.scripted_client import ScriptedClient


@pytest.fixture
def x() -> ScriptedClient:
    return ScriptedClient("x", ModelState("ready"))


@pytest.fixture
def http(x: ScriptedClient) -> Iterator[TestClient]:
    @asynccontextmanager
    async def nothing(_: Starlette) -> AsyncIterator[None]:
        yield

    models = Models(
        {
            "x": x,
            "slow": ScriptedClient("slow", ModelState("loading")),
            "broken": ScriptedClient("broken", ModelState("failed", "no such file")),
        }
    )
    settings = ServerSettings(MAX_BODY_SIZE=10_000, MAX_INSTANCES=5, REQUEST_TIMEOUT=0.05)
    with TestClient(create_app(models, settings, nothing), raise_server_exceptions=False) as client:
        yield client


def _predict(http: TestClient, **body: Any) -> Any:
    return http.post("/v1/models/x:predict", json=body)


@pytest.mark.parametrize(
    ("method", "path", "status", "answer"),
    [
        ("GET", "/", 200, {"status": "alive"}),
        ("GET", "/v1/models", 200, {"models": ["x", "slow", "broken"]}),
        ("GET", "/v1/models/x", 200, {"name": "x", "ready": True}),
        ("GET", "/v1/models/nope", 404, {"error": "Model with name nope does not exist."}),
        ("POST", "/v1/models/nope:predict", 404, {"error": "Model with name nope does not exist."}),
        ("GET", "/v1/models/slow", 503, {"error": "Model with name slow is not ready."}),
        ("POST", "/v1/models/slow:predict", 503, {"error": "Model with name slow is not ready."}),
        ("POST", "/v1/models/x:explain", 501, {"error": "this server has no explainer"}),
        ("GET", "/v1/models/x:predict", 405, {"error": "/v1/models/x:predict does not take GET"}),
        ("GET", "/v1/nothing", 404, {"error": "/v1/nothing is not a route of this server"}),
    ],
)
def test_routes_answer_as_kserve_does(http: TestClient, method: str, path: str, status: int, answer: Any) -> None:
    response = http.request(method, path)
    # The list of models and the models hold OpenAI's fields too.
    assert response.status_code == status
    assert answer == {name: value for name, value in response.json().items() if name in answer}
    assert ("retry-after" in response.headers) == (status == 503)


def test_a_model_that_failed_to_load_reports_the_reason(http: TestClient) -> None:
    response = http.get("/v1/models/broken")
    assert response.status_code == 503
    assert response.json()["error"].startswith("Model with name broken is not ready.")
    assert "no such file" in response.json()["error"]


def test_predictions_are_in_the_order_of_instances_with_the_parameters_of_the_request(http: TestClient) -> None:
    response = _predict(http, instances=["a", {"b": 1}, "ü🙂"], parameters={"top_k": 2})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"predictions": [["a", {"top_k": 2}], [{"b": 1}, {"top_k": 2}], ["ü🙂", {"top_k": 2}]]}


def test_inputs_may_replace_instances_and_parameters_may_be_null(http: TestClient) -> None:
    assert _predict(http, inputs=["a"], parameters=None).json() == {"predictions": [["a", {}]]}


def test_arrays_are_answered_as_nested_lists(http: TestClient) -> None:
    assert _predict(http, instances=["array"]).json() == {"predictions": [[[0.5, 1.5]]]}


@pytest.mark.parametrize("content_type", [None, "application/json; charset=utf-8", "text/plain"])
def test_the_content_type_does_not_matter(http: TestClient, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = http.post("/v1/models/x:predict", content=b'{"instances": ["a"]}', headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "Unrecognized request format"),
        (b"{", "Unrecognized request format"),
        (b"[]", "JSON object"),
        (b'{"instances": [NaN]}', "Unrecognized request format"),
        (b'{"instances": ["\xff"]}', "Unrecognized request format"),
        (b'{"instances": ["\\ud800"]}', "Unrecognized request format"),
        (b'{"instances": ' + b"[" * 3000 + b"]" * 3000 + b"}", "Unrecognized request format"),
        (b"{}", "instances: field required"),
        (b'{"parameters": {}}', "instances: field required"),
        (b'{"instances": "a"}', "instances: must be a list"),
        (b'{"inputs": {}}', "inputs: must be a list"),
        (b'{"instances": []}', "instances: must hold at least one"),
        (b'{"instances": ["a"], "parameters": []}', "parameters: must be an object"),
        (b'{"instances": ["a"], "params": {}}', "params: unknown field"),
    ],
)
def test_a_body_that_is_wrong_is_a_400_that_names_the_field(http: TestClient, body: bytes, named: str) -> None:
    response = http.post("/v1/models/x:predict", content=body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert named in response.json()["error"]


@pytest.mark.parametrize(
    ("instance", "status", "message"),
    [
        ("wrong", 400, "instances[1]: must be right"),
        ("parameter", 400, "parameters.top_k: must be 1"),
        ("bug", 500, "instances[1]: the log has the details"),
    ],
)
def test_one_instance_that_fails_fails_the_request_and_is_named(
    http: TestClient, instance: str, status: int, message: str
) -> None:
    response = _predict(http, instances=["a", instance, "b"])
    assert (response.status_code, response.json()) == (status, {"error": message})


def test_a_full_queue_is_a_429_with_a_time_to_retry(http: TestClient) -> None:
    response = _predict(http, instances=["full"])
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"


def test_too_large_a_body_or_too_many_instances_is_a_413_with_the_limit(http: TestClient) -> None:
    announced = _predict(http, instances=["x" * 10_000])
    chunked = http.post("/v1/models/x:predict", content=iter([b"x" * 6000, b"x" * 6000]))
    many = _predict(http, instances=["a"] * 6)
    for response, limit in ((announced, "10000"), (chunked, "10000"), (many, "5 allowed")):
        assert response.status_code == 413
        assert limit in response.json()["error"]


def test_an_answer_that_is_late_is_a_504_and_its_items_are_cancelled(http: TestClient, x: ScriptedClient) -> None:
    response = _predict(http, instances=["never", "never"])
    assert response.status_code == 504
    assert "REQUEST_TIMEOUT" in response.json()["error"]
    assert x.cancelled == ["never", "never"]


def test_items_are_cancelled_when_the_client_leaves(x: ScriptedClient) -> None:
    async def scenario() -> int:
        @asynccontextmanager
        async def nothing(_: Starlette) -> AsyncIterator[None]:
            yield

        app = create_app(Models({"x": x}), ServerSettings(), nothing)
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        await incoming.put({"type": "http.request", "body": b'{"instances": ["never"]}', "more_body": False})
        await incoming.put({"type": "http.disconnect"})
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/models/x:predict", "headers": [], "query_string": b"",
        }  # fmt: skip
        await asyncio.wait_for(app(scope, incoming.get, send), 30)
        return int(sent[0]["status"])

    assert asyncio.run(scenario()) == 499
    assert x.cancelled == ["never"]

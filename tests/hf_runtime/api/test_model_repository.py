"""Promise: the model repository extension lists, loads and unloads models where enabled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from hf_runtime.api.app import create_app
from hf_runtime.api.inference import Models
from hf_runtime.rpc.messages import ModelState
from hf_runtime.settings import ServerSettings
from tests.hf_runtime.api.scripted_client import ScriptedClient

MODELS = "/v2/repository/models"


class ManagedClient(ScriptedClient):
    """Client that changes its state on request, unless it is scripted to fail or never to end."""

    def __init__(self, name: str, state: ModelState) -> None:
        super().__init__(name, state)
        self.failure: str | None = None
        self.endless = False
        self.is_cancelled = 0

    async def load(self) -> None:
        self.state = ModelState("failed", self.failure) if self.failure else ModelState("ready")
        self.check_ready()

    async def unload(self) -> None:
        if self.endless:
            self.state = ModelState("unloading")
            try:
                await asyncio.Event().wait()
            finally:
                self.is_cancelled += 1
        self.state = ModelState("unloaded", "unloaded")


@contextmanager
def _serving(clients: list[ManagedClient], **settings: Any) -> Iterator[TestClient]:
    @asynccontextmanager
    async def nothing(_: Starlette) -> AsyncIterator[None]:
        yield

    app = create_app(Models({client.name: client for client in clients}), ServerSettings(**settings), nothing)
    with TestClient(app, raise_server_exceptions=False) as http:
        yield http


@pytest.fixture
def x() -> ManagedClient:
    return ManagedClient("x", ModelState("ready"))


@pytest.fixture
def http(x: ManagedClient) -> Iterator[TestClient]:
    with _serving([x], MODEL_MANAGEMENT=True, REQUEST_TIMEOUT=0.05, MAX_BODY_SIZE=1000) as client:
        yield client


def test_the_index_lists_all_models_in_tritons_terms_for_every_client() -> None:
    states = [
        ModelState("ready"),
        ModelState("loading"),
        ModelState("failed", "no such file"),
        ModelState("unloading"),
        ModelState("unloaded", "unloaded"),
    ]
    with _serving([ManagedClient(str(number), state) for number, state in enumerate(states)]) as http:
        index = http.post("/v2/repository/index")
        assert index.status_code == 200
        assert [(entry["name"], entry["state"], entry["reason"]) for entry in index.json()] == [
            ("0", "READY", ""),
            ("1", "LOADING", ""),
            ("2", "UNAVAILABLE", "no such file"),
            ("3", "UNLOADING", ""),
            ("4", "UNAVAILABLE", "unloaded"),
        ]
        assert {entry["version"] for entry in index.json()} == {"1"}
        assert http.post("/v2/repository/index", json={"ready": False}).json() == index.json()
        assert http.post("/v2/repository/index", json={"ready": True}).json() == index.json()[:1]


@pytest.mark.parametrize("body", [None, b"", b"{}", b'{"parameters": {}}', b'{"parameters": null}'])
@pytest.mark.parametrize("step", ["unload", "load"])
def test_a_load_or_unload_is_answered_once_it_is_done(
    http: TestClient, x: ManagedClient, step: str, body: bytes | None
) -> None:
    for _ in range(2):
        response = http.post(f"{MODELS}/x/{step}", content=body)
        assert (response.status_code, response.json()) == (200, {"name": "x", step: True})
        assert x.state.status == ("ready" if step == "load" else "unloaded")


def test_requests_to_an_unloaded_model_get_its_state_without_a_time_to_retry(http: TestClient) -> None:
    http.post(f"{MODELS}/x/unload")
    for response in (http.get("/v1/models/x"), http.post("/v1/models/x:predict", json={"instances": ["a"]})):
        assert response.status_code == 503
        assert response.json()["error"] == "Model with name x is not ready. It was unloaded."
        assert "retry-after" not in response.headers


def test_a_load_that_fails_reports_the_reason_and_may_be_retried(http: TestClient, x: ManagedClient) -> None:
    x.state, x.failure = ModelState("failed", "no such file"), "still no such file"
    response = http.post(f"{MODELS}/x/load")
    assert response.status_code == 503
    assert "still no such file" in response.json()["error"]
    x.failure = None
    assert http.post(f"{MODELS}/x/load").status_code == 200
    assert http.post("/v1/models/x:predict", json={"instances": ["a"]}).status_code == 200


@pytest.mark.parametrize("step", ["load", "unload"])
def test_models_cannot_be_changed_unless_enabled(x: ManagedClient, step: str) -> None:
    with _serving([x]) as http:
        response = http.post(f"{MODELS}/x/{step}", json={"parameters": {"unload_dependents": False}})
        assert response.status_code == 403
        assert "MODEL_MANAGEMENT" in response.json()["error"]
        assert x.state == ModelState("ready")


@pytest.mark.parametrize("step", ["load", "unload"])
def test_a_model_that_is_not_configured_cannot_be_loaded(http: TestClient, step: str) -> None:
    response = http.post(f"{MODELS}/nope/{step}")
    assert (response.status_code, response.json()) == (404, {"error": "Model with name nope does not exist."})
    assert http.post(f"{MODELS}/%2Fetc%2Fpasswd/{step}").status_code == 404


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "Unrecognized request format"),
        (b"[]", "JSON object"),
        (b'{"storage_uri": "/etc"}', "storage_uri: "),
        (b'{"parameters": []}', "parameters: must be an object"),
        (b'{"parameters": {"config": "{}"}}', "parameters.config: "),
        (b'{"parameters": {"file:1/model.onnx": ""}}', "parameters.file:1/model.onnx: "),
        (b'{"parameters": {"unload_dependents": "yes"}}', "parameters.unload_dependents: must be true or false"),
    ],
)
@pytest.mark.parametrize("step", ["load", "unload"])
def test_parameters_with_an_effect_in_triton_are_refused_by_name(
    http: TestClient, x: ManagedClient, step: str, body: bytes, named: str
) -> None:
    response = http.post(f"{MODELS}/x/{step}", content=body)
    assert response.status_code == 400
    assert named in response.json()["error"]
    assert x.state == ModelState("ready")


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b'{"ready": 1}', 400, "ready: must be true or false"),
        (b'{"repository_name": "a"}', 400, "repository_name: "),
        (b"null", 400, "JSON object"),
        (b" " * 1001, 413, "MAX_BODY_SIZE"),
    ],
)
def test_a_wrong_index_request_is_a_4xx(http: TestClient, body: bytes, status: int, named: str) -> None:
    response = http.post("/v2/repository/index", content=body)
    assert response.status_code == status
    assert named in response.json()["error"]


@pytest.mark.parametrize("path", ["/v2/repository/index", f"{MODELS}/x/load", f"{MODELS}/x/unload"])
def test_the_routes_accept_only_post(http: TestClient, path: str) -> None:
    response = http.get(path)
    assert (response.status_code, response.json()) == (405, {"error": f"{path} does not take GET"})


def test_a_load_or_unload_over_the_request_timeout_is_a_504_that_names_the_index(
    http: TestClient, x: ManagedClient
) -> None:
    x.endless = True
    response = http.post(f"{MODELS}/x/unload")
    assert response.status_code == 504
    assert "REQUEST_TIMEOUT" in response.json()["error"]
    assert "/v2/repository/index" in response.json()["error"]
    assert x.is_cancelled == 1

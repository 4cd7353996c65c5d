"""Promise: the OpenAPI document and page are complete, valid and show the served models."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bentoml
import jsonschema_rs
import pytest
import schemathesis
from starlette.applications import Starlette
from starlette.testclient import TestClient

from hf_runtime.api.app import create_app
from hf_runtime.api.inference import Models
from hf_runtime.api.openapi.bentoml import OPERATIONS
from hf_runtime.api.openapi.document import descriptions, route_names
from hf_runtime.api.openapi.operation import ERRORS, Served
from hf_runtime.contract.errors import HTTP_STATUS, MethodNotAllowed
from hf_runtime.contract.tasks import GENERATIVE_TASKS, TASKS
from hf_runtime.rpc.messages import ModelState
from hf_runtime.settings import ServerSettings, Task
from tests.hf_runtime.api.scripted_client import ScriptedClient


def _app(tasks: dict[str, Task | None]) -> Starlette:
    @asynccontextmanager
    async def nothing(_: Starlette) -> AsyncIterator[None]:
        yield

    return create_app(_models(tasks), ServerSettings(MAX_INSTANCES=5), nothing)


def _models(tasks: dict[str, Task | None]) -> Models:
    clients = {name: ScriptedClient(name, ModelState("ready")) for name in tasks}
    return Models(clients, {name: task for name, task in tasks.items() if task is not None})


_ALL: dict[str, Task | None] = {f"my-{task}": task for task in TASKS}
_SERVERS: dict[str, dict[str, Task | None]] = {
    "all seven": _ALL,
    "a custom pipeline": {"own": None},
    "a classifier": {"classifier": "text-classification"},
    "none yet": {},
}


def _document(tasks: dict[str, Task | None]) -> Any:
    return TestClient(_app(tasks)).get("/openapi.json").json()


@pytest.fixture(scope="module")
def http() -> TestClient:
    return TestClient(_app(_ALL), follow_redirects=False)


@pytest.fixture(scope="module")
def document(http: TestClient) -> Any:
    return http.get("/openapi.json").json()


def test_exactly_the_existing_routes_are_described(document: Any) -> None:
    routed = {*route_names(_app(_ALL).routes), *OPERATIONS}
    assert set(descriptions(Served(_models(_ALL), ServerSettings()))) == routed
    assert {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods} == routed


@pytest.mark.parametrize("tasks", _SERVERS.values(), ids=_SERVERS)
def test_the_document_is_valid_openapi_for_any_models(tasks: dict[str, Task | None]) -> None:
    schemathesis.openapi.from_dict(_document(tasks)).validate()


def test_names_of_operations_are_unique(document: Any) -> None:
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


def test_every_status_of_an_error_is_described() -> None:
    assert set(map(int, HTTP_STATUS.values())) - {HTTP_STATUS[MethodNotAllowed]} <= set(ERRORS)


def _bodies(document: Any) -> list[tuple[str, Any, Any]]:
    """Yield all examples of requests: the operation's name, the schema and the value."""
    found = []
    for methods in document["paths"].values():
        for operation in methods.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                values = [each["value"] for each in content.get("examples", {}).values()]
                values += [content["example"]] if "example" in content else []
                found += [(operation["operationId"], content["schema"], value) for value in values]
    return found


@pytest.mark.parametrize("tasks", _SERVERS.values(), ids=_SERVERS)
def test_examples_conform_to_their_schemas(tasks: dict[str, Task | None]) -> None:
    document = _document(tasks)
    for name, schema, value in _bodies(document):
        validator = jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]})
        assert validator.is_valid(value), (name, value)


def test_there_is_an_example_for_each_task_that_is_served(document: Any) -> None:
    for name in ("v1_predict", "v2_infer"):
        body = next(o for p in document["paths"].values() for o in p.values() if o["operationId"] == name)
        assert set(body["requestBody"]["content"]["application/json"]["examples"]) == set(TASKS)


def test_each_route_lists_the_models_that_can_answer(document: Any) -> None:
    def names(path: str) -> Any:
        operation = next(iter(document["paths"][path].values()))
        return operation["parameters"][0]["schema"]["enum"]

    def models(request: str) -> Any:
        return document["components"]["schemas"][request]["properties"]["model"]["enum"]

    writers = [f"my-{task}" for task in GENERATIVE_TASKS]
    assert names("/v1/models/{name}:predict") == names("/v2/models/{name}/infer") == list(_ALL)
    assert names("/v2/models/{name}/generate") == models("CompletionRequest") == writers
    assert models("ChatRequest") == ["my-text-generation"]
    assert models("EmbeddingRequest") == ["my-feature-extraction"]


def test_the_document_states_the_servers_limits(document: Any) -> None:
    instances = document["components"]["schemas"]["PredictRequest"]["properties"]["instances"]
    assert instances["maxItems"] == 5


def test_bentomls_route_for_the_document_returns_the_same(http: TestClient, document: Any) -> None:
    assert http.get("/docs.json").json() == document


def test_the_page_needs_nothing_but_files_that_bentoml_serves(http: TestClient) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    files = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    folder = Path(bentoml.__file__).parent / "_internal" / "server"
    assert files
    assert all((folder / file).is_file() for file in files)
    assert "//" not in page.text


def test_browsers_are_redirected_to_the_page_and_clients_are_not(http: TestClient) -> None:
    redirect = http.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (redirect.status_code, redirect.headers["location"]) == (307, "docs")
    for accept in ("*/*", "application/json"):
        assert http.get("/", headers={"Accept": accept}).json() == {"status": "alive"}


def test_a_path_with_a_line_break_is_a_404_in_the_shape_of_its_protocol(http: TestClient) -> None:
    assert http.get("/v1/a/%0A").json() == {"error": "/v1/a/ is not a route of this server"}
    assert http.get("/openai/v1/%0A").json()["error"]["type"] == "invalid_request_error"

"""Promise: variables, routes and user in the deployment files match the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import bentoml
import pytest
from bentoml._internal.container.generate import BENTO_UID_GID
from starlette.applications import Starlette
from starlette.routing import Match, Route

from hf_runtime.api.app import create_app
from hf_runtime.api.inference import Models
from hf_runtime.bento.lean_service import LeanService
from hf_runtime.settings import ServerSettings, load_settings
from tests.deployment.files import (
    KNOWN,
    document,
    environments,
    of_kind,
    runtime_container,
    server_container,
)

_ENVIRONMENTS = list(environments())


@pytest.mark.parametrize(("environment"), [each for _, each in _ENVIRONMENTS], ids=[name for name, _ in _ENVIRONMENTS])
def test_every_variable_is_a_setting(environment: dict[str, str]) -> None:
    assert set(environment) <= KNOWN


@pytest.mark.parametrize("place", ["compose", "bentocloud", "runtime"])
def test_the_server_starts_with_the_variables_that_are_set(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in dict(_ENVIRONMENTS)[place].items():
        monkeypatch.setenv(name, value.replace("{{.Name}}", "bert"))
    settings = load_settings()
    assert len(settings.models) == 1
    assert not settings.server.requires_api_key
    assert settings.notes == ()


def test_the_deployment_starts_with_its_variables_and_needs_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in dict(_ENVIRONMENTS)["deployment"].items():
        monkeypatch.setenv(name, value or "a key,another")
    settings = ServerSettings()
    assert settings.keys == ["a key", "another"]
    assert settings.request_timeout == 60


def _probes() -> Iterator[Any]:
    for container in (server_container(), runtime_container()):
        yield from (probe for name, probe in container.items() if name.endswith("Probe"))


def _requested_paths() -> set[str]:
    """Return all paths that probes and scrapers request."""
    (deployment,), (runtime,) = of_kind("Deployment"), of_kind("ClusterServingRuntime")
    return {
        *(probe["httpGet"]["path"] for probe in _probes()),
        document("compose/compose.yaml")["services"]["server"]["healthcheck"]["test"][-1]
        .split("3000")[1]
        .split("'")[0],
        *(job["metrics_path"] for job in document("compose/prometheus.yml")["scrape_configs"]),
        deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"],
        runtime["spec"]["annotations"]["prometheus.kserve.io/path"],
    }


@asynccontextmanager
async def _nothing(_: Starlette) -> AsyncIterator[None]:
    yield


def _routes() -> list[Route]:
    """Return BentoML's routes that the entry service answers, and the protocols' routes."""
    service = bentoml.service(name="Entry", service_class=LeanService)(type("Entry", (), {}))
    app = create_app(Models({}, {}), ServerSettings(), _nothing)
    return [route for route in (*service.to_asgi().routes, *app.routes) if isinstance(route, Route)]


def test_the_server_answers_every_requested_path() -> None:
    scopes = [{"type": "http", "method": "GET", "path": path, "headers": []} for path in _requested_paths()]
    assert {scope["path"] for scope in scopes} == {"/livez", "/readyz", "/metrics"}
    routes = _routes()
    for scope in scopes:
        assert any(route.matches(scope)[0] is Match.FULL for route in routes), scope["path"]


def test_readiness_and_liveness_probes_use_their_own_routes() -> None:
    for container in (server_container(), runtime_container()):
        paths = {name: probe["httpGet"]["path"] for name, probe in container.items() if name.endswith("Probe")}
        live = paths.pop("livenessProbe")
        assert live == "/livez"
        assert set(paths.values()) == {"/readyz"}


def test_the_server_runs_as_the_user_of_the_image() -> None:
    (deployment,) = of_kind("Deployment")
    for context in (deployment["spec"]["template"]["spec"]["securityContext"], runtime_container()["securityContext"]):
        assert context["runAsUser"] == context["runAsGroup"] == BENTO_UID_GID

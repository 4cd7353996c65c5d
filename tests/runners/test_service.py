"""Promise: a runner's service has the right resources, GPUs and keys, and leaks no secret."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from hf_runtime.rpc import ITEMS_PATH
from hf_runtime.settings import ModelSettings, ServerSettings, ensure_runner_key, load_settings
from runners.service import create_runner_service

SERVICE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: m}
spec:
  predictor:
    huggingface:
      storageUri: /model
      env:
        - {name: TORCH_CUDA_ARCH_LIST, value: "8.0"}
        - {name: PASSPHRASE, valueFrom: {secretKeyRef: {name: s, key: k}}}
      resources: {limits: {cpu: 1500m, memory: 2Gi, nvidia.com/gpu: 2}}
---
{kind: Secret, metadata: {name: s}, stringData: {k: hidden}}
"""


def _service(**options: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the resources and the environment of a runner's process."""
    service = create_runner_service(
        ModelSettings(storage_uri="/model", task="fill-mask", **options), 1, ServerSettings()
    )
    return service.config["resources"], {variable.name: variable.value for variable in service.envs}


def test_limits_are_resources_in_bentomls_units() -> None:
    resources, _ = _service(cpus=1.5, memory_limit=2 * 2**30, gpus=2)
    assert resources == {"cpu": 1.5, "memory": 2, "gpu": 2}


def test_gpus_that_the_operator_names_are_not_reassigned() -> None:
    resources, environment = _service(gpus=1, cuda_visible_devices="3")
    assert "gpu" not in resources
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"


def test_variables_reach_the_process_and_secrets_stay_out_of_the_bento(tmp_path: Path) -> None:
    config = tmp_path / "m.yaml"
    config.write_text(SERVICE)
    (model,) = load_settings(config).models
    service = create_runner_service(model, 1, ServerSettings())
    environment = {variable.name: variable.value for variable in service.envs}
    assert environment["TORCH_CUDA_ARCH_LIST"] == "8.0"
    assert "PASSPHRASE" not in environment
    assert service.config["resources"] == {"cpu": 1.5, "memory": 2, "gpu": 2}


KEYS: dict[str, Any] = {"api_keys": "client-key, other-key", "runner_key": "entry-key"}

GUARDED = [
    ("POST", "/predict"), ("GET", "/schema.json"), ("GET", "/docs.json"), ("GET", "/"), ("GET", ITEMS_PATH),
    ("GET", "/no/such/route"), ("POST", "/livez/../predict"), ("POST", "/metrics/"),
]  # fmt: skip


def _client(**settings: Any) -> TestClient:
    """Return a client of a runner whose model is not loaded, as no process has started it."""
    service = create_runner_service(
        ModelSettings(storage_uri="/model", task="fill-mask"), 1, ServerSettings(**settings)
    )
    return TestClient(service.to_asgi(is_main=True), raise_server_exceptions=False)


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "client-key, other-key"}])
def test_a_runner_refuses_requests_without_a_key(method: str, path: str, headers: dict[str, str]) -> None:
    answer = _client(**KEYS).request(method, path, headers=headers, json={"items": []})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "API key" in answer.json()["error"]
    assert "entry-key" not in answer.text


@pytest.mark.parametrize("key", ["client-key", "other-key", "entry-key"])
def test_a_runner_answers_clients_with_their_keys_and_the_entry_service_with_its_own(key: str) -> None:
    client = _client(**KEYS)
    assert client.get("/schema.json", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert client.get("/schema.json", headers={"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}])
def test_a_connection_for_items_without_a_key_ends_at_its_handshake(headers: dict[str, str]) -> None:
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        _client(**KEYS).websocket_connect(ITEMS_PATH, headers=headers),
    ):
        pass
    assert refused.value.code == 1008


def test_health_and_metrics_of_a_runner_need_a_key_only_if_configured() -> None:
    # BentoML's other health routes answer only in a process that it has started.
    assert _client(**KEYS).get("/livez").status_code == 200
    closed = _client(**KEYS, public_health=False, public_metrics=False)
    for path in ("/livez", "/readyz", "/healthz", "/metrics"):
        assert closed.get(path).status_code == 401
    assert closed.get("/livez", headers={"X-API-Key": "entry-key"}).status_code == 200


def test_keys_of_a_file_are_valid_while_listed_and_the_entry_services_always(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys"
    file.write_text("old-key\n")
    client = _client(api_keys_file=file, runner_key="entry-key")
    assert client.get("/schema.json", headers={"X-API-Key": "old-key"}).status_code == 200
    new = tmp_path / "new"
    new.write_text("new-key\n")
    new.replace(file)
    keys = ("old-key", "new-key", "entry-key")
    assert [client.get("/schema.json", headers={"X-API-Key": key}).status_code for key in keys] == [401, 200, 200]


def test_a_runner_without_client_keys_requires_at_most_the_entry_services() -> None:
    assert _client().get("/schema.json").status_code == 200
    assert _client(runner_key="entry-key").get("/schema.json").status_code == 401


def test_the_entry_services_key_is_generated_once_for_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_KEY", "")  # restores the variable afterwards
    monkeypatch.setenv("API_KEYS", "client-key")
    first = ensure_runner_key(ServerSettings()).runner_key
    assert first is not None
    assert len(first.get_secret_value()) > 40
    assert os.environ["RUNNER_KEY"] == first.get_secret_value()
    # A child process reads it from the environment of its parent.
    assert ensure_runner_key(ServerSettings()).runner_key == first
    assert ensure_runner_key(ServerSettings(runner_key="set")).runner_keys == ["client-key", "set"]
    assert first.get_secret_value() not in repr(ensure_runner_key(ServerSettings()))


def test_no_key_is_generated_if_clients_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_KEY", raising=False)
    assert ensure_runner_key(ServerSettings()).runner_key is None
    assert "RUNNER_KEY" not in os.environ


def test_no_key_is_in_a_bento_or_openapi_description_of_a_runner() -> None:
    service = create_runner_service(ModelSettings(storage_uri="/model", task="fill-mask"), 1, ServerSettings(**KEYS))
    said = json.dumps([service.schema(), service.openapi_spec.asdict(), service.config, [e.name for e in service.envs]])
    assert "client-key" not in said
    assert "entry-key" not in said

"""Promise: keys guard every protocol, TLS works, and pages of other origins are refused."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bentoml
import httpx
import psutil
import pytest
import requests
from bentoml.exceptions import BentoMLException

from tests.e2e.server import Server, serving
from tests.tiny import llama_model

pytestmark = pytest.mark.xdist_group("keep_out")

LONG = {"max_new_tokens": 100_000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("keep_out"), context=200_000)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("file-key\n")
    return file


@pytest.fixture(scope="module")
def server(folder: Path, keys: Path) -> Iterator[Server]:
    with serving(
        STORAGE_URI=str(folder), TASK="text-generation", API_KEYS="fixed-key", API_KEYS_FILE=str(keys),
        MAX_STREAMS_PER_KEY="1", PUBLIC_METRICS="false", CORS_ORIGINS="https://a.example",
        LOG_LEVEL="DEBUG", ACCESS_LOG="true",
    ) as server:  # fmt: skip
        yield server


def _predict(server: Server, key: str | None, **parameters: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    body = {"instances": ["a"], "parameters": {"max_new_tokens": 2, **parameters}}
    return requests.post(f"{server.url}/v1/models/model:predict", json=body, headers=headers, stream=True, timeout=60)


@pytest.mark.parametrize("path", ["/v1/models", "/v2/models/model", "/openai/v1/models", "/docs", "/schema.json"])
def test_no_protocol_answers_without_a_key(server: Server, path: str) -> None:
    assert requests.get(server.url + path, timeout=10).status_code == 401
    assert requests.get(server.url + path, headers={"X-API-Key": "fixed-key"}, timeout=10).status_code in (200, 404)


def test_probes_need_no_key_and_metrics_need_one_if_configured(server: Server) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/v2/health/ready"):
        assert requests.get(server.url + path, timeout=10).status_code == 200
    assert requests.get(f"{server.url}/metrics", timeout=10).status_code == 401
    assert requests.get(f"{server.url}/metrics", headers={"X-API-Key": "fixed-key"}, timeout=10).status_code == 200


def test_keys_are_replaced_without_a_restart(server: Server, keys: Path) -> None:
    assert _predict(server, "file-key").status_code == 200
    new = keys.with_suffix(".new")
    new.write_text("new-key\n")
    os.replace(new, keys)
    assert _predict(server, "file-key").status_code == 401
    assert _predict(server, "new-key").status_code == 200
    assert _predict(server, "fixed-key").status_code == 200


def test_the_limit_of_streams_holds_for_each_key_separately(server: Server) -> None:
    with _predict(server, "fixed-key", **LONG) as stream:
        assert stream.status_code == 200
        refused = _predict(server, "fixed-key", **LONG)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "MAX_STREAMS_PER_KEY" in refused.json()["error"]
        assert _predict(server, "fixed-key").status_code == 200  # whole answers do not count as streams
    with _predict(server, "new-key", max_new_tokens=3, stream=True) as other:
        assert other.status_code == 200


def test_no_key_is_ever_logged(server: Server) -> None:
    assert _predict(server, "fixed-key").status_code == 200
    assert _predict(server, "wrong-key").status_code == 401
    server.wait_for(r"401")
    assert not server.count(r"fixed-key|new-key|wrong-key")


def _sockets(runner: psutil.Process) -> list[str]:
    """Return the socket files that a runner listens on."""
    listening = [connection.laddr for connection in runner.net_connections(kind="unix")]
    return [str(address) for address in listening if str(address).endswith(".sock")]


def test_a_runner_on_a_local_socket_requires_a_key(server: Server) -> None:
    (runner,) = server.runner_processes()
    (path,) = set(_sockets(runner))
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://runner") as client:
        assert client.get("/livez").status_code == 200
        for method, route in (("POST", "/predict"), ("GET", "/items"), ("GET", "/schema.json"), ("GET", "/metrics")):
            answer = client.request(method, route, json={"items": []})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert client.get("/schema.json", headers={"X-API-Key": "fixed-key"}).status_code == 200


def test_the_entry_services_own_key_is_on_no_command_line_and_in_no_log_line(server: Server) -> None:
    (runner,), (entry,) = server.runner_processes(), server.entry_processes()
    key = entry.environ()["RUNNER_KEY"]
    assert runner.environ()["RUNNER_KEY"] == key
    assert not [part for process in (runner, entry) for part in process.cmdline() if key in part]
    assert not [line for line in server.log if key in line]
    # Only runners accept this key.
    assert _predict(server, key).status_code == 401


def test_a_standalone_runner_answers_only_bentomls_clients_with_a_key(folder: Path, keys: Path) -> None:
    variables = {
        "STORAGE_URI": str(folder), "TASK": "text-generation", "API_KEYS": "fixed-key", "API_KEYS_FILE": str(keys),
    }  # fmt: skip
    server = Server(variables, ["service:Runner"], bento=None)
    items = [{"instance": "a", "parameters": {"max_new_tokens": 2}}]
    try:
        server.wait_for("Model model is ready after")
        with bentoml.SyncHTTPClient(server.url, token="fixed-key") as client:
            (answer,) = client.predict(items=items)
            assert "result" in answer
        for headers in ({}, {"X-API-Key": "wrong-key"}):
            refused = requests.post(f"{server.url}/predict", json={"items": items}, headers=headers, timeout=60)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        with pytest.raises(BentoMLException):
            bentoml.SyncHTTPClient(server.url)  # the client requests the routes first
        assert requests.get(f"{server.url}/readyz", timeout=60).status_code == 200
        assert not server.count("fixed-key|wrong-key")
    finally:
        server.stop()


@pytest.mark.parametrize(("origin", "allowed"), [("https://a.example", True), ("https://evil.example", False)])
def test_only_pages_of_the_configured_origins_may_send_requests(server: Server, origin: str, allowed: bool) -> None:
    headers = {
        "Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization",
    }  # fmt: skip
    asked = requests.options(f"{server.url}/v1/models/model:predict", headers=headers, timeout=10)
    assert (asked.headers.get("access-control-allow-origin") == origin) is allowed


def test_tls_is_bentomls_and_without_origins_no_page_may_send_requests(folder: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    arguments = ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    with serving(STORAGE_URI=str(folder), TASK="text-generation", arguments=arguments) as server:
        url = f"https://localhost:{server.port}"
        body = {"instances": ["a"], "parameters": {"max_new_tokens": 2}}
        headers = {"Origin": "https://a.example"}
        answer = requests.post(
            f"{url}/v1/models/model:predict", json=body, headers=headers, verify=str(certificate), timeout=60
        )
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://localhost:{server.port}/livez", timeout=10)

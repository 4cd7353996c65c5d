"""Promise: on every protocol, a request without a valid key gets only health and metrics."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, AuthenticationError
from pydantic import SecretStr

from hf_runtime.api.call import Caller
from hf_runtime.api.http.api_keys import KeyRing
from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, Overloaded
from tests.hf_runtime.api.openai_server import generated_result, serving

KEYS = SecretStr("first-key, second-key")

GUARDED = (
    ("GET", "/v1/models"),
    ("GET", "/v1/models/writer"),
    ("POST", "/v1/models/writer:predict"),
    ("GET", "/v2"),
    ("GET", "/v2/models/writer"),
    ("POST", "/v2/models/writer/infer"),
    ("POST", "/v2/repository/index"),
    ("GET", "/openai/v1/models"),
    ("POST", "/openai/v1/completions"),
    ("POST", "/openai/v1/chat/completions"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/no/such/route"),
)


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong-key"}, {"Authorization": "first-key"}, {"X-API-Key": "first-ke"}],
)
def test_without_a_valid_key_nothing_is_answered(method: str, path: str, headers: dict[str, str]) -> None:
    with serving(api_keys=KEYS) as server:
        response = server.http.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "API key" in _message(response.json())
        assert "first-key" not in response.text
        assert not server.writer.submitted


def _message(body: dict[str, Any]) -> str:
    error = body["error"]
    return str(error["message"] if isinstance(error, dict) else error)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer second-key"},
        {"X-API-Key": "second-key"},
        {"Authorization": "Bearer of-a-platform", "X-API-Key": "second-key"},
        {"Authorization": "Bearer first-key", "X-API-Key": "of-something-else"},
        {"X-API-Key": "schlüssel".encode()},
        {"Authorization": b"Bearer " + "schlüssel".encode()},
    ],
)
def test_with_a_valid_key_every_protocol_answers_as_without_keys(headers: Any) -> None:
    with serving(api_keys=SecretStr("first-key, second-key, schlüssel")) as server:
        response = server.http.post("/v1/models/writer:predict", json={"instances": ["a"]}, headers=headers)
        assert response.status_code == 200


def test_openais_client_sends_its_key_and_raises_its_own_errors() -> None:
    with serving(api_keys=KEYS) as server:
        ask = {"model": "writer", "messages": [{"role": "user", "content": "Hello"}]}
        with pytest.raises(AuthenticationError) as refused:
            server.openai.with_options(api_key="wrong").chat.completions.create(**ask)  # type: ignore[call-overload]
        assert refused.value.code == "invalid_api_key"
        server.openai.with_options(api_key="first-key").chat.completions.create(**ask)  # type: ignore[call-overload]


@pytest.mark.parametrize("path", ["/", "/v2/health/live", "/v2/health/ready"])
def test_health_needs_no_key_unless_configured(path: str) -> None:
    with serving(api_keys=KEYS) as server:
        assert server.http.get(path).status_code in (200, 503)  # one of the models is loading
    with serving(api_keys=KEYS, public_health=False) as server:
        assert server.http.get(path).status_code == 401
        assert server.http.get(path, headers={"X-API-Key": "first-key"}).status_code in (200, 503)


def test_the_document_describes_keys_only_if_they_are_required() -> None:
    with serving(api_keys=KEYS) as server:
        document = server.http.get("/openapi.json", headers={"X-API-Key": "first-key"}).json()
        assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
        predict = document["paths"]["/v1/models/{name}:predict"]["post"]
        assert predict["security"] == [{"bearer": []}, {"header": []}]
        assert "401" in predict["responses"]
        assert "security" not in document["paths"]["/v2/health/live"]["get"]
    with serving() as server:
        assert "securitySchemes" not in server.http.get("/openapi.json").json()["components"]


def test_keys_of_a_file_are_replaced_while_the_server_runs(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# Team A\nold-key\n\n")
    ring = KeyRing(["fixed-key"], file)
    assert ring.find("old-key")
    assert ring.find("fixed-key")
    assert not ring.find("# Team A")
    assert not ring.find("")
    _replace(file, "new-key\n")
    assert not ring.find("old-key")
    assert ring.find("new-key")
    assert ring.find("fixed-key")


def test_a_key_file_that_becomes_unreadable_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("a-key")
    ring = KeyRing([], file)
    file.unlink()
    assert ring.find("a-key")
    file.write_bytes(b"\xff\xfe")
    assert ring.find("a-key")
    file.unlink()
    os.mkfifo(file)
    assert ring.find("a-key")
    _replace(file, "another-key")
    assert not ring.find("a-key")
    assert ring.find("another-key")


def test_a_file_without_any_key_admits_no_request(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("")
    ring = KeyRing([], file)
    assert ring.required
    assert not ring.find("")


def test_a_key_of_any_characters_is_compared() -> None:
    ring = KeyRing(["schlüssel"])
    assert ring.find("schlüssel")
    assert not ring.find("\udcff")


def _replace(file: Path, text: str) -> None:
    """Replace the file as Kubernetes does, by another file under the same name."""
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


def test_a_caller_has_no_more_streams_at_a_time_than_it_may() -> None:
    caller = Caller(2)
    caller.begin_stream()
    caller.begin_stream()
    with pytest.raises(Overloaded, match="2 streams") as refused:
        caller.begin_stream()
    assert refused.value.retry_after == 1
    caller.end_stream()
    caller.begin_stream()


def test_streams_that_ended_or_were_refused_are_not_counted() -> None:
    with serving(api_keys=KEYS, max_streams_per_key=1) as server:
        client = server.openai.with_options(api_key="first-key")
        for script in (
            [generated_result("an answer")],
            [InferenceFailed("no")],
            InvalidRequest("no"),
            [generated_result("an answer")],
        ):
            server.writer.script = lambda _, script=script: script  # type: ignore[misc]
            with suppress(APIError):
                list(client.completions.create(model="writer", prompt="a", stream=True))
        assert list(client.completions.create(model="writer", prompt="a", stream=True))

"""Promises of paths: the same routes for every base URL, and answers that KServe's and OpenAI's clients both read."""

from __future__ import annotations

from typing import Any

import msgspec
import openai
import pytest
from openai import OpenAI
from pydantic import SecretStr
from starlette.testclient import TestClient

from hf_runtime.api.http.authentication import HEALTH_PATHS
from hf_runtime.api.http.error_formats import ERROR_FORMATS, find_error_format
from hf_runtime.api.http.paths import normalize_path
from hf_runtime.contract.errors import InferenceFailed, InvalidRequest
from hf_runtime.contract.protocols import find_protocol
from hf_runtime.rpc.messages import ModelState
from hf_runtime.version import __version__
from tests.hf_runtime.api.openai_server import ScriptedClient, Server, app, serving

HELLO: Any = [{"role": "user", "content": "Hello"}]
BASES = ("/v1", "/v1/", "/openai/v1", "/openai/v1/", "//v1", "//openai//v1//")


def _client(server: Server, base: str, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"http://testserver{base}", api_key=key, http_client=server.http, max_retries=0)


@pytest.mark.parametrize("base", BASES)
def test_every_base_url_serves_openais_client(server: Server, base: str) -> None:
    client = _client(server, base)
    chat = client.chat.completions.create(model="writer", messages=HELLO)
    assert chat.choices[0].message.content == "an answer"
    chunks = client.chat.completions.create(model="writer", messages=HELLO, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "an answer"
    assert client.completions.create(model="writer", prompt="a").choices[0].text == "an answer"
    server.embedder.script = lambda _: {"embedding": [0.5, 1.0], "prompt_tokens": 1}
    vector = client.embeddings.create(model="embedder", input="a", encoding_format="float").data[0].embedding
    assert vector == [0.5, 1.0]
    assert [model.id for model in client.models.list()] == ["writer", "embedder", "classifier", "slow"]
    assert client.models.retrieve("writer").owned_by == "hugging-face-runtime"


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ["nope", "owner/nope", "owner/nope/again"])
def test_an_unknown_model_is_openais_404_under_every_base_url(server: Server, base: str, name: str) -> None:
    client = _client(server, base)
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model=name, messages=HELLO)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve(name)
    # Under `/v1`, `error` is KServe's sentence, which the client shows as the whole body.
    assert f"Model with name {name} does not exist." in str(refused.value.body)


@pytest.mark.parametrize("base", ["/v1", "/openai/v1"])
@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings"])
def test_errors_of_these_paths_have_openais_shape_under_both(base: str, path: str) -> None:
    body = {"chat/completions": {"messages": HELLO}, "completions": {"prompt": "a"}, "embeddings": {"input": "a"}}[path]
    with serving(api_keys=SecretStr("key")) as server:
        keyed = {"Authorization": "Bearer key"}
        url = f"{base}/{path}"
        answers = {
            401: server.http.post(url, json={"model": "writer", **body}),
            404: server.http.post(url, json={"model": "nope", **body}, headers=keyed),
            405: server.http.get(url, headers=keyed),
            503: server.http.post(url, json={"model": "slow", **body}, headers=keyed),
        }
        for status, response in answers.items():
            assert response.status_code == status
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert answers[401].json()["error"]["code"] == "invalid_api_key"
        assert answers[404].json()["error"]["code"] == "model_not_found"
        assert answers[503].headers["retry-after"]
        # A path below a route is none, and is refused in the same shape.
        below = server.http.post(f"{url}/more", json={}, headers=keyed)
        assert (below.status_code, set(below.json()["error"])) == (404, {"message", "type", "param", "code"})


@pytest.mark.parametrize("failure", [InvalidRequest("no"), InferenceFailed("no")])
def test_a_stream_under_v1_reports_errors_as_openai_does(server: Server, failure: Any) -> None:
    server.writer.script = lambda _: [{"generated_text": "a"}, failure]
    body = {"model": "writer", "messages": HELLO, "stream": True}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        text = response.read().decode()
    assert '"error":{"message":' in text
    with pytest.raises(openai.APIError, match="no"):
        list(_client(server, "/v1").chat.completions.create(model="writer", messages=HELLO, stream=True))


def test_one_list_of_models_serves_kserves_and_openais_clients(server: Server) -> None:
    server.writer.state = ModelState("ready", context_length=512)
    listed = server.http.get("/v1/models").json()
    assert listed["models"] == ["writer", "embedder", "classifier", "slow"]
    assert listed["object"] == "list"
    by_id = {model["id"]: model for model in listed["data"]}
    assert list(by_id) == listed["models"]
    assert {name: model["max_model_len"] for name, model in by_id.items()} == {
        "writer": 512, "embedder": None, "classifier": None, "slow": None,
    }  # fmt: skip
    one = server.http.get("/v1/models/writer").json()
    assert one == {"name": "writer", "ready": True, **by_id["writer"]}
    assert server.http.get("/openai/v1/models").json() == {"object": "list", "data": listed["data"]}
    assert server.http.get("/openai/v1/models/writer").json() == by_id["writer"]


@pytest.mark.parametrize(("name", "status"), [("nope", 404), ("owner/nope", 404), ("slow", 503)])
def test_an_error_of_a_model_is_kserves_sentence_and_openais_fields(server: Server, name: str, status: int) -> None:
    response = server.http.get(f"/v1/models/{name}")
    assert response.status_code == status
    error = response.json()
    assert isinstance(error["error"], str)
    assert error["error"] == error["message"]
    assert name in error["error"]
    assert error["code"] == ("model_not_found" if status == 404 else None)
    assert error["type"] == ("invalid_request_error" if status == 404 else "server_error")


def test_the_verbs_of_kserve_keep_its_errors(server: Server) -> None:
    response = server.http.post("/v1/models/nope:predict", json={"instances": ["a"]})
    assert response.json() == {"error": "Model with name nope does not exist."}
    assert server.http.get("/v1/models/writer:predict").status_code == 405


@pytest.mark.parametrize(
    ("path", "normalized"),
    [
        ("/", "/"), ("//", "/"), ("", "/"), ("/v1/models", "/v1/models"), ("/v1/models/", "/v1/models"),
        ("//v1//models///", "/v1/models"), ("/v1/models/a/../b", "/v1/models/a/../b"), ("/v1/\n/", "/v1/\n"),
    ],
)  # fmt: skip
def test_a_path_has_one_form(path: str, normalized: str) -> None:
    assert normalize_path(path) == normalized
    assert normalize_path(normalized) == normalized


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"), ("GET", "/v1/models/writer"), ("POST", "/v1/models/writer:predict"), ("GET", "/v2"),
        ("GET", "/v2/health/live"), ("GET", "/v2/models/writer/ready"), ("POST", "/v2/repository/index"),
        ("GET", "/openai/v1/models"), ("GET", "/openai/v1/models/writer"), ("GET", "/openapi.json"),
        ("GET", "/health"), ("GET", "/version"), ("GET", "/no/such/route"), ("GET", "/openai"), ("GET", "/v1"),
    ],
)  # fmt: skip
def test_slashes_at_the_end_and_doubled_ones_change_nothing(server: Server, method: str, path: str) -> None:
    body = {"instances": ["a"]} if "predict" in path else None
    plain = server.http.request(method, path, json=body, follow_redirects=False)
    for other in (f"{path}/", f"/{path}", path.replace("/", "//"), f"//{path}//", f"/{path[1:]}%2F"):
        response = server.http.request(method, f"http://testserver{other}", json=body, follow_redirects=False)
        assert (response.status_code, response.content) == (plain.status_code, plain.content), other


@pytest.mark.parametrize("spelling", ["/docs/", "/docs//", "//docs/"])
def test_a_browser_finds_the_files_of_the_page_by_every_spelling(server: Server, spelling: str) -> None:
    page = server.http.get(f"http://testserver{spelling}", follow_redirects=True)
    assert (page.status_code, page.url.path) == (200, "/docs")
    assert "static_content/" in page.text


@pytest.mark.parametrize("path", sorted({"/v1/models", "/docs", "/version", "/v2/repository/index", "/health/x"}))
def test_no_spelling_of_a_path_needs_no_key_but_those_of_public_ones(path: str) -> None:
    with serving(api_keys=SecretStr("key")) as server:
        for other in (
            path,
            f"{path}/",
            f"/{path}",
            path.replace("/", "//"),
            f"/health/..{path}",
            f"/health/%2E%2E{path}",
        ):
            assert server.http.get(f"http://testserver{other}").status_code == 401, other
        for public in HEALTH_PATHS & {"/", "/health", "/v2/health/live"}:
            for other in (public, f"{public}/", f"/{public}//"):
                assert server.http.get(f"http://testserver{other}").status_code in (200, 503), other


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [(["ready"], 200), (["ready", "failed"], 200), (["ready", "loading"], 503), (["failed"], 503), (["unloaded"], 200)],
)
def test_health_is_that_of_readiness(statuses: list[Any], expected: int) -> None:
    clients = []
    for number, status in enumerate(statuses):
        client = ScriptedClient(f"model-{number}", ModelState(status, "because"))
        client.settled = status != "loading"
        clients.append(client)
    with TestClient(app(clients)) as http:
        response = http.get("/health")
        assert response.status_code == expected
        assert response.content == b"" if expected == 200 else response.headers["retry-after"]


def test_the_version_needs_a_key_and_health_does_not_unless_the_operator_wants_one() -> None:
    with serving(api_keys=SecretStr("key")) as server:
        assert server.http.get("/version").status_code == 401
        assert server.http.get("/version", headers={"X-API-Key": "key"}).json() == {"version": __version__}
        assert server.http.get("/health").status_code == 503
    with serving(api_keys=SecretStr("key"), public_health=False) as server:
        assert server.http.get("/health").status_code == 401


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("/v1/models", "v1"), ("/v1/models/x:predict", "v1"), ("/v1/chat/completions", "openai"),
        ("/v1/completions", "openai"), ("/v1/embeddings", "openai"), ("/openai/v1/models", "openai"),
        ("/v2/models", "v2"), ("/v2", "v2"), ("/metrics", None), ("/v10/models", None), ("/", None),
        ("/v1/completionsx", "v1"), ("/openaix", None),
    ],
)  # fmt: skip
def test_protocols_are_told_apart_by_the_path(path: str, protocol: str | None) -> None:
    assert find_protocol(path) == protocol
    assert find_error_format(path) in ERROR_FORMATS


def test_the_context_length_of_a_state_reaches_the_entry_service() -> None:
    state = ModelState("ready", context_length=7)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=ModelState) == state
    assert ModelState("ready").context_length is None

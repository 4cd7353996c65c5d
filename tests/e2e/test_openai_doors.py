"""Promise: a real server answers OpenAI's client under every base URL, and requests of the field as they are sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
import yaml

from hf_runtime.version import __version__
from tests.e2e.checkpoints import feature_extraction, inference_service
from tests.e2e.server import Server, serving
from tests.tiny import llama_model

pytestmark = pytest.mark.xdist_group("openai_doors")

CHAT: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello world"}]
BASES = ("/v1", "/v1/", "//v1//", "/openai/v1", "/openai/v1/", "/openai//v1")
KEY = {"Authorization": "Bearer the-key"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("doors")
    documents = [
        inference_service("llama", llama_model(folder / "llama", context=512), {"TASK": "text-generation"}),
        inference_service("bert", feature_extraction(folder / "bert"), {"TASK": "feature-extraction"}),
    ]
    config = folder / "models.yaml"
    config.write_text(yaml.safe_dump_all(documents))
    with serving(models=2, RUNTIME_CONFIG=str(config), API_KEYS="the-key", ACCESS_LOG="true") as server:
        yield server


def _client(server: Server, base: str, key: str = "the-key") -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + base, api_key=key, max_retries=0)


@pytest.mark.parametrize("base", BASES)
def test_the_official_client_works_under_every_base_url(server: Server, base: str) -> None:
    client = _client(server, base)
    options: dict[str, Any] = {"model": "llama", "messages": CHAT, "temperature": 0, "max_tokens": 8}
    whole = client.chat.completions.create(**options).choices[0].message.content
    chunks = client.chat.completions.create(**options, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert client.completions.create(model="llama", prompt="Paris", max_tokens=3).choices[0].finish_reason
    assert len(client.embeddings.create(model="bert", input=["a", "b"]).data) == 2
    listed = {model.id: model for model in client.models.list()}
    assert {name: model.model_dump()["max_model_len"] for name, model in listed.items()} == {"llama": 512, "bert": 64}
    assert client.models.retrieve("llama").id == "llama"


@pytest.mark.parametrize("base", BASES)
def test_errors_have_openais_codes_under_every_base_url(server: Server, base: str) -> None:
    client = _client(server, base)
    ask: Any = {"model": "llama", "messages": CHAT, "max_tokens": 4}
    with pytest.raises(openai.AuthenticationError) as refused:
        _client(server, base, "wrong").chat.completions.create(**ask)
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**{**ask, "model": "owner/nope"})
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    long = "word " * 2000
    calls: list[tuple[Any, str, int]] = [
        (lambda: client.chat.completions.create(**{**ask, "messages": [{"role": "user", "content": long}]}),
         "messages", 512),
        (lambda: client.chat.completions.create(**{**ask, "messages": [*CHAT[:1], {"role": "user", "content": long}]},
                                                stream=True), "messages", 512),
        (lambda: client.completions.create(model="llama", prompt=long), "prompt", 512),
        (lambda: client.completions.create(model="llama", prompt=["a", long]), "prompt[1]", 512),
        (lambda: client.embeddings.create(model="bert", input=long), "input", 64),
    ]  # fmt: skip
    for call, param, limit in calls:
        with pytest.raises(openai.BadRequestError) as exceeded:
            call()
        error = exceeded.value
        assert (error.code, error.type, error.param) == ("context_length_exceeded", "invalid_request_error", param)
        assert f"maximum context length is {limit} tokens" in str(error)
        assert "parameters." not in str(error)
        assert len(re.findall(r"\d+ tokens", str(error))) == 2


def test_kserves_clients_read_the_same_models(server: Server) -> None:
    for path in ("/v1/models", "/v1/models/", "//v1//models"):
        listed = requests.get(server.url + path, headers=KEY, timeout=60)
        assert (listed.status_code, listed.json()["models"]) == (200, ["llama", "bert"])
    model = requests.get(f"{server.url}/v1/models/llama/", headers=KEY, timeout=60).json()
    assert (model["name"], model["ready"], model["id"], model["max_model_len"]) == ("llama", True, "llama", 512)
    predicted = requests.post(
        f"{server.url}//v1/models/llama:predict/", json={"instances": ["a"]}, headers=KEY, timeout=60
    )
    assert predicted.status_code == 200
    nope = requests.get(f"{server.url}/v1/models/nope", headers=KEY, timeout=60).json()
    assert (nope["error"], nope["code"]) == ("Model with name nope does not exist.", "model_not_found")


def test_health_is_public_in_every_spelling_and_nothing_else_is(server: Server) -> None:
    for path in ("/health", "/health/", "//health", "/livez", "/livez/", "//readyz//", "/metrics/", "/v2/health/live/"):
        assert requests.get(server.url + path, timeout=60).status_code == 200, path
    for path in ("/version", "//version/", "/v1/models/", "//docs", "/docs.json/", "//schema.json", "/v1/health/.."):
        request = requests.Request("GET", server.url).prepare()
        request.url = server.url + path  # as it is written
        assert requests.Session().send(request, timeout=60).status_code == 401, path
    for path in ("/openai", "/openai/", "/v1", "/v1/"):
        answer = requests.get(server.url + path, headers=KEY, timeout=60, allow_redirects=False)
        assert (answer.status_code, list(answer.json())) == (404, ["error"]), path
    assert requests.get(f"{server.url}/version", headers=KEY, timeout=60).json() == {"version": __version__}


def test_a_history_of_many_clients_is_answered_and_unknown_fields_are_named(server: Server) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    messages = [
        *CHAT,
        {"role": "assistant", "content": "Hi", "reasoning_content": "I greet.", "refusal": None, "annotations": []},
        {"role": "user", "content": [{"type": "text", "text": "a", "annotations": None, "cache_control": {"x": 1}}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "provider_specific_fields": None, "audio": None},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny", "mood": "merry"},
        {"role": "assistant", "content": ""},
    ]
    body = {"model": "llama", "messages": messages, "max_tokens": 4, "use_beam_search": False, "foo": 1}
    answer = requests.post(f"{server.url}/v1/chat/completions", json=body, headers=KEY, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Ignored-Fields"] == "foo,messages.mood"
    server.wait_for("Unknown fields of a request are ignored: foo,messages.mood")
    refused = requests.post(
        f"{server.url}/v1/chat/completions", json={**body, "use_beam_search": True}, headers=KEY, timeout=60
    )
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "use_beam_search")


def test_usage_is_in_every_chunk_if_a_client_wants_it(server: Server) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(
        _client(server, "/v1").completions.create(
            model="llama", prompt="Paris is", max_tokens=9, stream=True, stream_options=options,
            extra_body={"ignore_eos": True},
        )
    )  # fmt: skip
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
    assert len(counts) == len(chunks) > 2
    assert counts == sorted(counts)
    assert counts[0] < 9
    assert counts[-1] == 9
    assert len({chunk.usage.prompt_tokens for chunk in chunks if chunk.usage is not None}) == 1

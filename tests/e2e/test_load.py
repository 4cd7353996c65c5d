"""Promise: under load no answer is lost or mixed up, and health stays quick.

Killed runners come back, and items of clients that left are dropped.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from transformers import BertForSequenceClassification

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.text_classification import TextClassificationRunner
from tests.e2e.server import Server, serving
from tests.tiny import CORPUS, bert_config, save, wordpiece_tokenizer

pytestmark = pytest.mark.xdist_group("load")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = wordpiece_tokenizer()
    folder = tmp_path_factory.mktemp("load")
    return save(folder, BertForSequenceClassification, bert_config(tokenizer, num_labels=4), tokenizer)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(STORAGE_URI=str(folder), MAX_QUEUE_SIZE="200") as server:
        yield server


def _texts(count: int) -> list[str]:
    """Return different inputs of different lengths."""
    words = " ".join(CORPUS).split()
    return [" ".join(words[(i * 7 + j) % len(words)] for j in range(1 + i % 12)) for i in range(count)]


def _predict(session: requests.Session, server: Server, body: Any) -> requests.Response:
    return session.post(f"{server.url}/v1/models/model:predict", json=body, timeout=60)


def test_two_thousand_requests_64_at_a_time_each_get_their_own_answer(server: Server, folder: Path) -> None:
    texts = _texts(2000)
    oracle = TextClassificationRunner(ModelSettings(storage_uri=str(folder), task="text-classification"))
    oracle.load()
    expected = oracle.predict([Item(text, {"top_k": 1 + i % 4}) for i, text in enumerate(texts)])
    with requests.Session() as session, ThreadPoolExecutor(64) as pool:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))

        def ask(i: int) -> Any:
            body = {"instances": [texts[i]], "parameters": {"top_k": 1 + i % 4}}
            response = _predict(session, server, body)
            assert response.status_code == 200, response.text
            return response.json()["predictions"][0]

        answers = list(pool.map(ask, range(len(texts))))
    for answer, right in zip(answers, expected, strict=True):
        assert [entry["label"] for entry in answer] == [entry["label"] for entry in right]
        assert [entry["score"] for entry in answer] == pytest.approx([entry["score"] for entry in right], abs=1e-5)


def test_health_is_answered_while_the_model_computes(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool, requests.Session() as session:
        loads = [pool.submit(_predict, session, server, {"instances": _texts(100)}) for _ in range(2)]
        checks = 0
        while not all(load.done() for load in loads):
            assert requests.get(f"{server.url}/livez", timeout=5).status_code == 200
            assert requests.get(f"{server.url}/readyz", timeout=5).status_code == 200
            checks += 1
        assert checks > 0
        assert {load.result().status_code for load in loads} <= {200, 429}


def test_more_than_the_queue_holds_is_refused_with_a_time_to_retry_and_the_server_recovers(server: Server) -> None:
    with requests.Session() as session:
        refused = _predict(session, server, {"instances": ["text"] * 201})
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert _predict(session, server, {"instances": ["text"]}).status_code == 200


def test_clients_that_leave_do_not_keep_others_waiting(server: Server) -> None:
    body = requests.Request("POST", server.url, json={"instances": _texts(100)}).prepare().body
    for _ in range(50):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v1/models/model:predict", body)
        connection.close()
    with requests.Session() as session:
        for _ in range(200):  # the queue may still hold items of the last of them
            if (response := _predict(session, server, {"instances": ["text"]})).status_code == 200:
                break
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"instances": [NaN]}', 400),
        (b'{"instances": ["\xff\xfe"]}', 400),
        (b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}", 400),
        (b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"instances": ["' + b"a b " * 2_500_000 + b'"]}', 400),
        (b'{"instances": ["' + b"a b " * 5_000_000 + b'"]}', 413),
        (b'{"instances": [' + b'"a",' * 2000 + b'"a"]}', 413),
        (b'{"instances": [null, 1e999]}', 400),
    ],
    ids=["NaN", "not UTF-8", "900 deep", "100,000 deep", "10 MB text", "20 MB body", "2,001 instances", "infinity"],
)
def test_hostile_bodies_are_4xx_and_the_server_survives(server: Server, body: bytes, status: int) -> None:
    response = requests.post(f"{server.url}/v1/models/model:predict", data=body, timeout=60)
    assert response.status_code == status, response.text
    assert "error" in response.json()
    with requests.Session() as session:
        assert _predict(session, server, {"instances": ["text"]}).status_code == 200


def test_a_runner_that_is_killed_comes_back_and_meanwhile_the_model_is_not_ready(server: Server) -> None:
    (runner,) = server.runner_processes()
    served = server.count("Model model is ready after")
    runner.kill()
    runner.wait(30)
    with requests.Session() as session:
        response = _predict(session, server, {"instances": ["text"]})
        assert response.status_code == 503
        assert response.headers["Retry-After"]
        assert requests.get(f"{server.url}/livez", timeout=5).status_code == 200
        server.wait_for("Model model is ready after", times=served + 1)
        response = _predict(session, server, {"instances": ["text"]})
        assert response.status_code in (200, 503)


def test_the_entry_service_holds_no_model_and_no_torch(server: Server) -> None:
    (entry,) = server.entry_processes()
    assert not [region.path for region in entry.memory_maps() if "torch" in region.path]

"""Promise: models load and unload under load; requests end, memory returns, answers stay."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from transformers import BertForSequenceClassification
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.e2e.server import Server, serving
from tests.tiny import CORPUS, bert_config, save, wordpiece_tokenizer

#: Half the size of the model's weights in bytes; a smaller decrease does not count.
_FALL = 38 * 2**20


def _model(folder: Path) -> Path:
    """Save a model of 76 MB, which is visible in the memory of its process."""
    tokenizer = wordpiece_tokenizer()
    config = bert_config(
        tokenizer, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048,
        initializer_range=0.05,
    )  # fmt: skip
    return save(folder, BertForSequenceClassification, config, tokenizer)


def _ask(session: requests.Session, server: Server, texts: list[str]) -> requests.Response:
    url = f"{server.url}/v1/models/model:predict"
    return session.post(url, json={"instances": texts, "parameters": {"top_k": None}}, timeout=60)


def _state(triton: InferenceServerClient) -> tuple[str, str]:
    (entry,) = triton.get_model_repository_index()
    assert entry["name"] == "model"
    return entry["state"], entry["reason"]


def _memory(server: Server) -> list[int]:
    return [process.memory_info().rss for process in server.runner_processes()]


@contextmanager
def _load_on(server: Server) -> Iterator[list[requests.Response]]:
    """Run clients that send requests continuously; yield their answers."""
    answers: list[requests.Response] = []
    over = threading.Event()

    def client() -> None:
        with requests.Session() as session:
            while not over.is_set():
                answers.append(_ask(session, server, CORPUS))

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client) for _ in range(8)]
        try:
            yield answers
        finally:
            over.set()
        for asking in clients:
            asking.result()


def test_a_model_is_unloaded_and_loaded_again_under_load(tmp_path: Path) -> None:
    settings = {"STORAGE_URI": str(_model(tmp_path)), "TASK": "text-classification", "MODEL_MANAGEMENT": "true"}
    with serving(settings, API_WORKERS="2", REPLICAS="2") as server:
        triton = InferenceServerClient(f"127.0.0.1:{server.port}")
        server.wait_for("Model model is ready after", times=2)
        server.wait_until_all_answer(200)
        with requests.Session() as session:
            before = _ask(session, server, CORPUS).json()["predictions"]
        with _load_on(server) as answers:
            for rounds in range(1, 3):
                assert _state(triton) == ("READY", "")
                loaded = _memory(server)
                triton.unload_model("model", unload_dependents=True)
                triton.unload_model("model")
                server.wait_for("Model model is unloaded", times=2 * rounds)
                unloaded = _memory(server)
                assert len(loaded) == len(unloaded) == 2
                assert all(less < more - _FALL for more, less in zip(loaded, unloaded, strict=True))
                server.wait_until_all_answer(503)
                assert _state(triton) == ("UNAVAILABLE", "unloaded")
                assert requests.get(f"{server.url}/readyz", timeout=60).status_code == 200
                triton.load_model("model")
                server.wait_until_all_answer(200)
        with pytest.raises(InferenceServerException, match=r"parameters\.config"):
            triton.load_model("model", config="{}")
        triton.close()

    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 200:
            _equal(answer.json()["predictions"], before)
        else:
            error = answer.json()["error"]
            assert error.startswith("Model with name model is not ready.")
            assert ("It was unloaded" in error) != ("retry-after" in answer.headers)


def _equal(given: list[Any], wanted: list[Any]) -> None:
    # Other rows of the batch change the last digits of a score.
    for answer, right in zip(given, wanted, strict=True):
        assert answer == [{**label, "score": pytest.approx(label["score"], abs=1e-5)} for label in right]

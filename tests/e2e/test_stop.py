"""Promise: a stop finishes running requests, accepts no new ones and leaves no process."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.e2e.checkpoints import text_classification
from tests.e2e.server import Server, serving
from tests.tiny import llama_model


def _begun_or_waiting(server: Server) -> int:
    """Return the number of instances that have arrived.

    It may be too low: instances that begin between both reads are missed.
    """
    begun = server.count("batch of 1 rows")
    lines = requests.get(f"{server.url}/metrics", timeout=10).text.splitlines()
    return begun + sum(int(float(line.rpartition(" ")[2])) for line in lines if "queue_size{" in line)


def test_a_stopping_server_answers_requests_in_flight_and_refuses_new_ones(
    tmp_path: Path,
) -> None:
    text_classification(tmp_path)
    with (
        serving(STORAGE_URI=str(tmp_path), MAX_BATCH_SIZE="1", LOG_LEVEL="DEBUG") as server,
        ThreadPoolExecutor(8) as pool,
        requests.Session() as session,
    ):
        processes = [*server.runner_processes(), *server.entry_processes()]
        url = f"{server.url}/v1/models/model:predict"
        answers = [pool.submit(requests.post, url, json={"instances": ["a text"] * 500}, timeout=60) for _ in range(8)]
        # Half of the last one has arrived, too. The margin covers the batches of the warm-up, which are counted.
        while _begun_or_waiting(server) <= 7.5 * 500:
            assert not any(answer.done() and answer.result().status_code != 200 for answer in answers)
        assert session.get(f"{server.url}/readyz", timeout=10).status_code == 200
        server.terminate()
        while session.get(f"{server.url}/readyz", timeout=10).status_code == 200:
            assert not all(answer.done() for answer in answers), "readiness went with the requests, not before"
        for path in ("/v1/models/model:predict", "/v2/models/model/infer", "/openai/v1/embeddings"):
            refused = requests.post(server.url + path, json={"instances": ["late"]}, timeout=10)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert refused.headers["Connection"] == "close"
            assert "stopping" in refused.text
        assert requests.get(f"{server.url}/livez", timeout=10).status_code == 200
        for answer in answers:
            assert answer.result(60).status_code == 200
            assert len(answer.result().json()["predictions"]) == 500
        server.wait_ended()
        assert not [process for process in processes if process.is_running()]


def test_a_stream_that_would_not_end_in_time_ends_in_an_error(tmp_path: Path) -> None:
    llama_model(tmp_path, context=200_000)
    body = {"instances": ["Paris"], "parameters": {"max_new_tokens": 100_000, "ignore_eos": True, "stream": True}}
    with serving(STORAGE_URI=str(tmp_path), TASK="text-generation", DRAIN_SECONDS="1") as server:
        processes = [*server.runner_processes(), *server.entry_processes()]
        stream = requests.post(f"{server.url}/v1/models/model:predict", json=body, stream=True, timeout=60)
        lines = stream.iter_lines()
        assert "generated_text" in json.loads(next(lines))
        server.terminate()
        last = [json.loads(line) for line in lines if line][-1]
        assert "stopped" in last["error"]
        server.wait_ended()
        assert not [process for process in processes if process.is_running()]


@pytest.mark.xdist_group("plain")
def test_a_server_without_requests_stops_immediately(plain_server: Server) -> None:
    plain_server.terminate()
    plain_server.wait_ended(timeout=10)

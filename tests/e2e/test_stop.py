"""Promise of the stop: a request that was accepted is answered, and no process is left behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.e2e.checkpoints import text_classification
from tests.e2e.server import serving


def test_a_request_in_flight_is_answered_when_the_server_is_told_to_stop(tmp_path: Path) -> None:
    text_classification(tmp_path)
    with (
        serving(STORAGE_URI=str(tmp_path), MAX_BATCH_SIZE="1", LOG_LEVEL="DEBUG") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        processes = [*server.runner_processes(), *server.entry_processes()]
        body = {"instances": ["a text"] * 1000}
        answer = pool.submit(requests.post, f"{server.url}/v1/models/model:predict", json=body, timeout=60)
        server.wait_for("batch of 1 rows", times=20)
        server.terminate()
        assert answer.result(60).status_code == 200
        assert len(answer.result().json()["predictions"]) == 1000
        server.wait_ended()
        assert not [process for process in processes if process.is_running()]

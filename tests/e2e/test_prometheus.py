"""Promise: a real Prometheus that scrapes a server under load counts the client's requests."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import requests
import yaml

from tests.e2e import checkpoints
from tests.e2e.metrics_load import Load, expressions
from tests.e2e.server import free_port, serving

pytestmark = [
    pytest.mark.xdist_group("prometheus"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian has it)"),
]


class _Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> list[Any]:
        """Return the present values of a query, each with its labels."""
        answer = requests.get(f"{self._url}/api/v1/query", params={"query": expression}, timeout=30)
        assert answer.status_code == 200, answer.text
        result: list[Any] = answer.json()["data"]["result"]
        return result

    def sums(self, metric: str, *labels: str) -> dict[Any, float]:
        """Return values by labels, without zeros."""
        result = self.query(f"sum by ({', '.join(labels)}) ({metric})")
        sums = {tuple(each["metric"][label] for label in labels): float(each["value"][1]) for each in result}
        return {key[0] if len(key) == 1 else key: value for key, value in sums.items() if value}

    def wait_for_scrape(self, after: float) -> None:
        """Block until a scrape has begun after that time, in seconds since the epoch."""
        pause, deadline = threading.Event(), monotonic() + 60
        while monotonic() < deadline:
            scraped = self.query("timestamp(up)")
            if scraped and float(scraped[0]["value"][1]) > after:
                return
            pause.wait(0.2)
        raise AssertionError("Prometheus did not scrape the server")


@contextmanager
def _prometheus(folder: Path, target: str) -> Iterator[_Prometheus]:
    job = {"job_name": "server", "static_configs": [{"targets": [target]}]}
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    process = subprocess.Popen(
        [*command, f"--web.listen-address={address}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "ready to receive web requests" in line:
                break
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        yield _Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def test_prometheus_counts_every_request_and_answers_the_dashboards_queries(tmp_path: Path) -> None:
    documents = [
        checkpoints.inference_service(
            "classifier", checkpoints.text_classification(tmp_path / "classifier"), {"TASK": "text-classification"}
        ),
        checkpoints.inference_service(
            "writer", checkpoints.text_generation(tmp_path / "writer"), {"TASK": "text-generation"}
        ),
    ]
    config = tmp_path / "models.yaml"
    config.write_text(yaml.safe_dump_all(documents))
    with (
        serving(models=2, RUNTIME_CONFIG=str(config), API_WORKERS="2") as server,
        _prometheus(tmp_path, server.url.removeprefix("http://")) as prometheus,
    ):
        prometheus.wait_for_scrape(0)
        load = Load("classifier", "writer")
        for _ in range(3):
            load.run(server)
        (now,) = prometheus.query("time()")[1:]
        prometheus.wait_for_scrape(float(now))
        assert prometheus.sums("requests_total", "protocol", "code") == load.requests
        assert prometheus.sums("request_errors_total", "protocol", "error") == load.errors
        assert prometheus.sums("request_instances_total", "protocol") == load.instances
        assert prometheus.sums("prompt_tokens_total", "model_name")["writer"] == load.tokens["read"]
        assert prometheus.sums("generated_tokens_total", "model_name")["writer"] == load.tokens["written"]
        answered = [expression for expression in expressions() if prometheus.query(expression)]
        # The load has produced a value for every query of the dashboard.
        assert answered == expressions()

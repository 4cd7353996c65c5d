"""Promise: `/metrics` of real servers counts what clients observe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.e2e import checkpoints
from tests.e2e.metrics_load import Load, Samples, documented_metrics, expressions, metrics_in
from tests.e2e.server import Server, serving

pytestmark = pytest.mark.xdist_group("metrics")


def _ask(server: Server, model: str) -> None:
    answer = requests.post(f"{server.url}/v1/models/{model}:predict", json={"instances": ["good"]}, timeout=60)
    assert answer.status_code == 200, answer.text


def _models_in_metrics(server: Server) -> set[str]:
    return set(Samples(server).sums("requests_total", "model_name"))


def test_a_starting_server_keeps_the_metrics_of_a_running_one(tmp_path: Path) -> None:
    folder = str(checkpoints.text_classification(tmp_path / "model"))
    home = tmp_path / "home"
    same = {"STORAGE_URI": folder, "TASK": "text-classification", "BENTOML_HOME": str(home)}
    with serving(same, MODEL_NAME="first") as first:
        _ask(first, "first")
        with serving(same, MODEL_NAME="second") as second:
            _ask(second, "second")
            assert _models_in_metrics(first) == {"first"}
            assert _models_in_metrics(second) == {"second"}
        _ask(first, "first")
        assert _models_in_metrics(first) == {"first"}
    assert not list((home / "server_metrics").iterdir())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("metrics")
    documents = [
        checkpoints.inference_service(
            "classifier",
            checkpoints.text_classification(folder / "classifier"),
            {"TASK": "text-classification"},
            minReplicas=2,
        ),
        checkpoints.inference_service(
            "writer", checkpoints.text_generation(folder / "writer"), {"TASK": "text-generation"}
        ),
    ]
    config = folder / "models.yaml"
    config.write_text(yaml.safe_dump_all(documents))
    with serving(models=2, RUNTIME_CONFIG=str(config), API_WORKERS="2") as server:
        yield server


@pytest.fixture(scope="module")
def load(server: Server) -> Load:
    load = Load("classifier", "writer")
    load.run(server)
    return load


def test_workers_and_replicas_together_count_every_request(server: Server, load: Load) -> None:
    samples = Samples(server)
    assert samples.sums("requests_total", "protocol", "code") == load.requests
    assert samples.sums("request_errors_total", "protocol", "error") == load.errors
    assert samples.sums("request_instances_total", "protocol") == load.instances
    assert samples.sums("prompt_tokens_total", "model_name")["writer"] == load.tokens["read"]
    assert samples.sums("generated_tokens_total", "model_name") == {"writer": load.tokens["written"]}
    asked = sum(load.requests[protocol, "200"] for protocol in ("v1", "v2"))
    for step in ("preprocess", "predict", "postprocess"):
        assert samples.sums(f"request_{step}_seconds_count", "model_name")["classifier"] == asked
    classified = load.instances["v1"] + load.instances["v2"]
    assert samples.sums("queue_wait_seconds_count", "model_name")["classifier"] == classified
    assert samples.sums("batch_rows_sum", "model_name")["classifier"] == classified


def test_gauges_exist_for_each_runner(server: Server, load: Load) -> None:
    samples = Samples(server)
    assert samples.sums("model_ready", "model_name") == {"classifier": 2, "writer": 1}
    assert len(samples.sums("model_load_seconds", "runner")) == 3
    assert samples.sums("queue_size", "model_name") == {}


def test_the_readme_and_the_dashboard_name_the_exported_metrics(server: Server, load: Load) -> None:
    names = Samples(server).names
    own = {name.removesuffix("_bucket") for name in names if name.endswith("_bucket")}
    own |= {name for name in names if not name.endswith(("_bucket", "_sum", "_count", "_created"))}
    assert own == documented_metrics()
    assert set().union(*map(metrics_in, expressions())) <= names


def test_a_killed_runner_leaves_no_metrics_behind(server: Server) -> None:
    written = Samples(server).sums("generated_tokens_total", "model_name").get("writer", 0)
    endless: dict[str, Any] = {"max_new_tokens": 100, "ignore_eos": True, "stream": True}
    body = {"instances": ["Paris"] * 500, "parameters": endless}
    with requests.post(f"{server.url}/v1/models/writer:predict", json=body, stream=True, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines)
        assert Samples(server).sums("running_sequences", "model_name")["writer"] > 0
        (runner,) = (process for process in server.runner_processes() if "runner-3" in process.cmdline())
        runner.kill()
        runner.wait(60)
    server.wait_for("Model writer is ready", times=2)
    samples = Samples(server)
    assert samples.sums("running_sequences", "model_name") == {}
    assert samples.sums("queue_size", "model_name") == {}
    assert samples.sums("generated_tokens_total", "model_name")["writer"] > written

"""Promise: a runner with a broken device or with NaN only reports it and ends if useful."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from safetensors.torch import load_file, save_file

from tests.e2e.checkpoints import text_classification
from tests.e2e.server import Server, serving

#: Every call fails after the first failure, as with CUDA.
_PIPELINE = """
broken = []

def create_pipeline():
    def pipe(text):
        if text == "break":
            broken.append(text)
        if broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if text == "crash":
            raise RuntimeError("one item's own error")
        return text.upper()
    return pipe
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("broken_device")
    (folder / "custom_pipeline.py").write_text(_PIPELINE)
    with serving(STORAGE_URI=str(folder), TRUST_REMOTE_CODE="true") as server:
        yield server


def _ask(server: Server, *texts: str) -> requests.Response:
    return requests.post(f"{server.url}/v1/models/model:predict", json={"instances": list(texts)}, timeout=60)


def test_a_runner_with_a_broken_device_is_replaced_by_one_that_answers(server: Server) -> None:
    for times in (2, 3):
        (runner,) = server.runner_processes()
        assert _ask(server, "a", "b").json() == {"predictions": ["A", "B"]}
        broken = _ask(server, "break", "a") if times == 2 else _ask(server, "break")
        assert broken.status_code == 503
        assert int(broken.headers["retry-after"]) > 0
        runner.wait(60)
        server.wait_for("Model model is ready after", times=times)
        server.wait_until_all_answer(200)
        assert _ask(server, "a").json() == {"predictions": ["A"]}
    assert server.count("the device failed, so the process ends") == 2
    assert server.count("illegal memory access") >= 2


def test_a_runner_with_a_broken_device_gets_no_requests(server: Server) -> None:
    (runner,) = server.runner_processes()
    ready = server.count("Model model is ready after")
    assert _ask(server, "break").status_code == 503
    asked = [requests.get(f"{server.url}/readyz", timeout=60).status_code for _ in range(3)]
    refused = _ask(server, "a")
    # Its successor needs seconds to start.
    assert asked == [503] * 3
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    runner.wait(60)
    server.wait_for("Model model is ready after", times=ready + 1)
    server.wait_until_all_answer(200)
    assert requests.get(f"{server.url}/readyz", timeout=60).status_code == 200


def test_an_error_of_one_item_ends_no_runner(server: Server) -> None:
    runners = server.runner_processes()
    assert _ask(server, "crash").status_code == 500
    assert _ask(server, "a").json() == {"predictions": ["A"]}
    assert server.runner_processes() == runners


def test_a_model_that_computes_only_nan_is_logged_once_and_counted_in_its_metrics(tmp_path: Path) -> None:
    weights = text_classification(tmp_path / "model") / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor.fill_(float("nan")) for name, tensor in tensors.items()}, weights, {"format": "pt"})
    with serving(STORAGE_URI=str(weights.parent), REPLICAS="1") as server:
        gauge = 'model_only_nan{model_name="model",runner="runner-1"}'
        assert f"{gauge} 0.0" in requests.get(f"{server.url}/metrics", timeout=60).text
        for _ in range(8):
            _ask(server, "a film")
        server.wait_for("computes nothing but NaN")
        assert f"{gauge} 1.0" in requests.get(f"{server.url}/metrics", timeout=60).text
        assert server.count("computes nothing but NaN") == 1

"""Promises of `/metrics` on real servers."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.e2e import checkpoints
from tests.e2e.server import Server, serving

pytestmark = pytest.mark.xdist_group("metrics")


def _ask(server: Server, model: str) -> None:
    answer = requests.post(f"{server.url}/v1/models/{model}:predict", json={"instances": ["good"]}, timeout=60)
    assert answer.status_code == 200, answer.text


def _models_in_metrics(server: Server) -> set[str]:
    lines = requests.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    return {model for line in lines for model in ("first", "second") if f"/v1/models/{model}:predict" in line}


def test_a_server_that_starts_leaves_the_metrics_of_one_that_runs_alone(tmp_path: Path) -> None:
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

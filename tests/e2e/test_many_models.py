"""Promise: models in one server run together, with their own names, settings and errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings, load_settings
from runners.registry import create_runner
from tests.e2e.checkpoints import fill_mask, inference_service, text_classification, token_classification
from tests.e2e.server import serving
from tests.tiny import CORPUS


def _answers(model: ModelSettings, texts: list[str]) -> list[Any]:
    runner = create_runner(model)
    runner.load()
    return runner.predict([Item(text) for text in texts])


def test_models_of_different_tasks_answer_under_load_while_another_has_failed(tmp_path: Path) -> None:
    broken = fill_mask(tmp_path / "broken") / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    config = tmp_path / "models.yaml"
    simple = {"AGGREGATION_STRATEGY": "simple"}
    documents = [
        inference_service(
            "sentiment", text_classification(tmp_path / "a"), {"TASK": "text-classification", **simple}, minReplicas=2
        ),
        inference_service(
            "entities", token_classification(tmp_path / "b"), {"TASK": "token-classification", **simple}, minReplicas=1
        ),
        inference_service("broken", tmp_path / "broken", {"TASK": "fill-mask", **simple}, minReplicas=1),
    ]
    config.write_text(yaml.safe_dump_all(documents))
    models = {model.name: model for model in load_settings(config).models}
    texts = [f"{text} {number}" for number in range(20) for text in CORPUS]
    expected = {name: _answers(models[name], texts) for name in ("sentiment", "entities")}
    with serving(models=2, RUNTIME_CONFIG=str(config)) as server:
        server.wait_for("broken is not served: .*damaged")
        assert len(server.runner_processes()) == 4
        assert requests.get(f"{server.url}/readyz", timeout=5).status_code == 200

        with requests.Session() as session, ThreadPoolExecutor(32) as pool:
            session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=32))

            def ask(name: str, text: str) -> Any:
                url = f"{server.url}/v1/models/{name}:predict"
                answer = session.post(url, json={"instances": [text]}, timeout=60)
                assert answer.status_code == (503 if name == "broken" else 200), answer.text
                return answer.json().get("predictions", [None])[0]

            asked = {
                name: [pool.submit(ask, name, text) for text in texts] for name in ("sentiment", "entities", "broken")
            }
            answered = {name: [future.result() for future in futures] for name, futures in asked.items()}
        status = requests.get(f"{server.url}/v1/models/broken", timeout=5)
        assert status.status_code == 503
        assert "damaged" in status.json()["error"]

    for name, answers in expected.items():
        for wanted, given in zip(answers, answered[name], strict=True):
            # Other rows of the batch change the last digits of a score.
            assert given == [{**part, "score": pytest.approx(part["score"], abs=1e-5)} for part in wanted]

"""Promise: models come from hub and store with hidden secrets, and then from their caches.

A model that fails to load reports why.
"""

from __future__ import annotations

from pathlib import Path

import requests

from tests.e2e.checkpoints import text_classification
from tests.e2e.server import Server, serving
from tests.runners.storage import fake_hub, fake_s3

TOKEN = "hf_only_the_hub_may_see_this"


def test_a_private_hub_model_is_served_with_its_token_hidden_and_later_from_the_cache(
    tmp_path: Path,
) -> None:
    folder = text_classification(tmp_path / "model")
    uri, cache = "hf://owner/private", str(tmp_path / "cache")
    body = {"instances": ["Hello world"]}
    with fake_hub.serving() as hub:
        hub.add("owner/private", folder, token=TOKEN)
        with serving(
            STORAGE_URI=uri, TRANSFORMERS_CACHE=cache, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN
        ) as server:
            online = requests.post(f"{server.url}/v1/models/model:predict", json=body, timeout=60).json()
            assert TOKEN not in "\n".join(server.log)
        asked = len(hub.requests)
        assert asked > 0
        with serving(STORAGE_URI=uri, TRANSFORMERS_CACHE=cache, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1") as server:
            offline = requests.post(f"{server.url}/v1/models/model:predict", json=body, timeout=60).json()
        assert len(hub.requests) == asked
    assert online == offline
    assert "predictions" in online


def test_a_model_of_an_object_store_is_served_with_its_keys_hidden_and_later_from_the_cache(tmp_path: Path) -> None:
    folder = text_classification(tmp_path / "model")
    variables = {"STORAGE_URI": "s3://models/a/b", "STORAGE_CACHE": str(tmp_path / "cache"), "LOG_LEVEL": "DEBUG"}
    body = {"instances": ["Hello world"]}
    logs = []
    with fake_s3.serving() as store:
        store.add("models", "a/b", folder)
        variables |= store.variables
        with serving(variables, HF_HUB_OFFLINE="0") as server:
            first = requests.post(f"{server.url}/v1/models/model:predict", json=body, timeout=60).json()
            logs += server.log
    with serving(variables, HF_HUB_OFFLINE="1") as server:
        second = requests.post(f"{server.url}/v1/models/model:predict", json=body, timeout=60).json()
        logs += server.log
    assert first == second
    assert "predictions" in first
    assert fake_s3.SECRET not in "\n".join(logs)
    assert len([line for line in logs if "s3://models/a/b: downloading " in line]) == 1


def test_a_model_that_failed_to_load_reports_the_reason_without_a_stack_trace(tmp_path: Path) -> None:
    weights = text_classification(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    server = Server({"STORAGE_URI": str(tmp_path)})
    try:
        server.wait_for("is not served")
        assert requests.get(f"{server.url}/livez", timeout=5).status_code == 200
        assert requests.get(f"{server.url}/readyz", timeout=5).status_code == 503
        refused = requests.post(f"{server.url}/v1/models/model:predict", json={"instances": ["a"]}, timeout=5)
        assert refused.status_code == 503
        assert "damaged" in refused.json()["error"]
        assert not [line for line in server.log if "Traceback" in line]
    finally:
        server.stop()

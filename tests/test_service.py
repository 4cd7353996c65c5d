"""Promise: service.py loads in every process, and each process imports only what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import BertForSequenceClassification

from tests.project import ROOT
from tests.tiny import bert_config, save, wordpiece_tokenizer

#: Modules that only other processes need, and those that download models.
_OF_OTHERS = ("torch", "transformers", "numpy", "runners.host", "hf_runtime.api.app", "hf_runtime.rpc.client")
_OF_ELSEWHERE = ("huggingface_hub", "obstore", "requests")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = wordpiece_tokenizer()
    return save(tmp_path_factory.mktemp("model"), BertForSequenceClassification, bert_config(tokenizer), tokenizer)


def _printed(code: str, folder: Path, **variables: str) -> Any:
    environment = {
        **os.environ,
        "STORAGE_URI": str(folder),
        "TASK": "text-classification",
        "BENTOML_HOME": str(folder.parent),
        "BENTOML_DO_NOT_TRACK": "1",
        **variables,
    }
    command = [sys.executable, "-c", f"import json, sys, service\nprint(json.dumps({code}))"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_starting_process_imports_no_protocols_runners_or_downloads(folder: Path) -> None:
    imported = set(_printed("sorted(sys.modules)", folder))
    assert imported.isdisjoint({*_OF_OTHERS, *_OF_ELSEWHERE})


def test_the_entry_service_imports_the_protocols_and_no_runners(folder: Path) -> None:
    imported = set(_printed("(service.HuggingFaceRuntime.to_asgi(), sorted(sys.modules))[1]", folder))
    assert {"hf_runtime.api.app", "hf_runtime.rpc.client"} <= imported
    assert imported.isdisjoint({"torch", "transformers", "runners.host", *_OF_ELSEWHERE})


def test_a_bento_knows_the_routes_of_all_protocols(folder: Path) -> None:
    """Load the service as `bentoml build` does, which then forgets where its modules are."""
    paths = _printed("(sys.path.remove(''), sorted(service.HuggingFaceRuntime.schema()['paths']))[1]", folder)
    assert {"/v1/models", "/v2/health/ready", "/openai"} <= set(paths)


def test_no_secret_is_in_the_description_of_the_services(folder: Path) -> None:
    """Include the random key of the entry service among the secrets."""
    code = """[os := __import__("os"), told := [], [
        told.extend([s.schema(), s.openapi_spec.asdict(), s.config, [str(e) for e in s.envs], s.labels])
        for s in service.HuggingFaceRuntime.all_services().values()
    ], {"told": repr(told), "key": os.environ["RUNNER_KEY"]}][-1]"""
    printed = _printed(
        code, folder, API_KEYS="planted-key", HF_TOKEN="planted-token", AWS_SECRET_ACCESS_KEY="planted-s3"
    )
    assert "predict" in printed["told"]
    assert "planted" not in printed["told"]
    assert len(printed["key"]) > 40
    assert printed["key"] not in printed["told"]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs.json", "/schema.json"])
def test_no_secret_is_in_the_schemas_of_the_routes(folder: Path, path: str) -> None:
    code = f"""[
        client := __import__("starlette.testclient").testclient.TestClient(service.HuggingFaceRuntime.to_asgi()),
        client.get({path!r}, headers={{"X-API-Key": "planted-key"}}).text,
    ][-1]"""
    told = _printed(code, folder, API_KEYS="planted-key", RUNNER_KEY="planted-runner", HF_TOKEN="planted-token")
    assert "paths" in told or "routes" in told
    assert "planted" not in told

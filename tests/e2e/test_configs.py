"""Promises of configs/: each of KServe's documented InferenceServices is served as it is written, alone or in company.

A hub and an object store on this machine hold small models under the names that the documents use.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.acceleration.compiled import FOLDER as KERNELS
from tests.e2e.checkpoints import text_classification, text_generation, token_classification
from tests.e2e.server import ROOT, Server, serving
from tests.loading import fake_hub, fake_s3

CONFIGS = ROOT / "configs"
#: Served by other tests: their models are files of the demonstration.
OTHERS = ("demo.yaml", "quickstart.yaml")
TOKEN = "hf_of_the_secret"

HUB = {
    "bert-base-uncased": text_classification,
    "cardiffnlp/twitter-roberta-base-sentiment-latest": text_classification,
    "dbmdz/bert-large-cased-finetuned-conll03-english": token_classification,
    "facebook/opt-30b": text_generation,
    "gpt2": text_generation,
    "gpt2-large": text_generation,
    "microsoft/DialoGPT-large": text_generation,
    "private-org/private-model": text_generation,
}


@contextmanager
def _models(folder: Path) -> Iterator[dict[str, str]]:
    """The documents' models; gives the variables that lead to them."""
    secret = folder / "secrets" / "hf-secret"
    secret.mkdir(parents=True)
    (secret / "token").write_text(f"{TOKEN}\n")
    # What is compiled is everybody's: a dozen runners would compile it all at the same time.
    KERNELS.mkdir(parents=True, exist_ok=True)
    (folder / "store").mkdir()
    (folder / "store/kernels").symlink_to(KERNELS, target_is_directory=True)
    with fake_hub.serving() as hub, fake_s3.serving() as store:
        for number, (repo, make) in enumerate(HUB.items()):
            token = TOKEN if repo.startswith("private") else None
            hub.add(repo, make(folder / f"hub-{number}"), token=token)
        store.add("my-bucket", "custom-model", text_classification(folder / "custom"))
        yield {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_CACHE": str(folder / "hub"),
            "STORAGE_CACHE": str(folder / "store"),
            "SECRETS_DIR": str(folder / "secrets"),
            **store.variables,
        }


def _copies(folder: Path) -> dict[str, dict[str, Any]]:
    """The documents in a folder of their own, by name; their caches lie there too."""
    folder.mkdir()
    documents = {}
    for path in sorted(CONFIGS.glob("*.yaml")):
        if path.name not in OTHERS:
            shutil.copy(path, folder)
            copy = folder / path.name
            text = copy.read_text()
            for cache in ("/tmp/transformers_cache", "/models/cache"):
                text = text.replace(cache, str(folder / "cache"))
            copy.write_text(text)
            document = yaml.safe_load(text)
            documents[document["metadata"]["name"]] = document
    return documents


def _ask(server: Server, name: str) -> Any:
    answer = requests.post(f"{server.url}/v1/models/{name}:predict", json={"instances": ["Hello world"]}, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0]


def test_every_document_is_served_and_all_of_them_together(tmp_path: Path) -> None:
    documents = _copies(tmp_path / "configs")
    with (
        _models(tmp_path) as variables,
        serving(variables, models=len(documents), RUNTIME_CONFIG=str(tmp_path / "configs")) as server,
    ):
        assert sorted(requests.get(f"{server.url}/v1/models", timeout=5).json()["models"]) == sorted(documents)
        assert requests.get(f"{server.url}/readyz", timeout=5).status_code == 200
        for name in documents:
            assert _ask(server, name), name
        assert TOKEN not in "\n".join(server.log)


@pytest.mark.parametrize("name", ["ner-model"])
def test_a_file_is_named_by_a_variable_or_an_argument(tmp_path: Path, name: str) -> None:
    with _models(tmp_path) as variables:
        with serving(variables, RUNTIME_CONFIG=f"configs/{name}.yaml") as server:
            by_variable = _ask(server, name)
        # A Bento gets no arguments when it is served, but those that it was built with.
        with serving(variables, bento=None, arguments=["--arg", f"config=configs/{name}.yaml"]) as server:
            by_argument = _ask(server, name)
    assert by_variable == by_argument
    assert {"entity_group", "score", "word", "start", "end"} == set(by_variable[0])

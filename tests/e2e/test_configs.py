"""Promise: KServe's documented InferenceServices in configs/ are served unchanged.

They are served alone or together. A hub and an object store on this machine hold small models under the names that the
documents use. `tests/runners/storage/test_documents.py` checks without a server that each document loads unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.documents import TOKEN, copy_documents, serve_document_models
from tests.e2e.server import Server, serving
from tests.runners.storage import fake_hub

#: One document for each way in which they differ.
IN_COMPANY = {"custom-storage", "debug-mode", "hub-model", "large-llm", "model-quantization", "private-model"}


def _ask(server: Server, name: str) -> Any:
    answer = requests.post(f"{server.url}/v1/models/{name}:predict", json={"instances": ["Hello world"]}, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0]


def test_documents_of_every_kind_are_served_together_from_their_folder(tmp_path: Path) -> None:
    for name, path in copy_documents(tmp_path / "configs").items():
        if name not in IN_COMPANY:
            path.unlink()
    with (
        fake_hub.serving() as hub,
        serve_document_models(tmp_path, hub) as variables,
        serving(variables, models=len(IN_COMPANY), RUNTIME_CONFIG=str(tmp_path / "configs")) as server,
    ):
        assert set(requests.get(f"{server.url}/v1/models", timeout=5).json()["models"]) == IN_COMPANY
        assert requests.get(f"{server.url}/readyz", timeout=5).status_code == 200
        for name in IN_COMPANY:
            assert _ask(server, name), name
        assert TOKEN not in "\n".join(server.log)


@pytest.mark.parametrize("name", ["ner-model"])
def test_a_configuration_file_is_named_by_a_variable_or_an_argument(tmp_path: Path, name: str) -> None:
    with fake_hub.serving() as hub, serve_document_models(tmp_path, hub) as variables:
        with serving(variables, RUNTIME_CONFIG=f"configs/{name}.yaml") as server:
            by_variable = _ask(server, name)
        # A Bento has the arguments that it was built with and none when it is served.
        with serving(variables, bento=None, arguments=["--arg", f"config=configs/{name}.yaml"]) as server:
            by_argument = _ask(server, name)
    assert by_variable == by_argument
    assert {"entity_group", "score", "word", "start", "end"} == set(by_variable[0])

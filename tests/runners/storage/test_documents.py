"""Promise: KServe's documented InferenceServices load unchanged, alone and together."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_runtime.contract.item import Item
from hf_runtime.settings import load_settings
from runners.models.architecture import resolve_task
from runners.registry import create_runner
from tests.documents import copy_documents, serve_document_models
from tests.runners.storage.fake_hub import FakeHub


def test_every_document_is_loaded_and_answers(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = copy_documents(tmp_path / "configs")
    assert len(documents) >= 18
    with serve_document_models(tmp_path, hub) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        together = {model.name: model for model in load_settings(tmp_path / "configs").models}
        assert together.keys() == documents.keys()
        for name, path in documents.items():
            (model,) = load_settings(path).models
            assert model == together[name]
            runner = create_runner(resolve_task(model))
            runner.load()
            ((answer, *_),) = runner.predict([Item("Hello world")])
            assert {"label", "word", "generated_text"} & answer.keys(), name

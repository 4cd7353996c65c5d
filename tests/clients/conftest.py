"""Server for all clients: the two demo models of `make serve`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers import AutoTokenizer

from tests.clients.answers import MODEL, Server
from tests.clients.client import Client
from tests.e2e.server import serving
from tests.project import ROOT

CHECKPOINT = ROOT / ".models" / "SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving(models=2, bento=None, RUNTIME_CONFIG="configs/quickstart.yaml") as running:
        yield Server(running.url)


@pytest.fixture(scope="module")
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    """Start the client that the module is named after, with the address of OpenAI's routes."""
    name = request.module.__name__.rpartition(".test_")[2]
    with Client(name, {"url": server.url, "model": MODEL}) as running:
        yield running


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with the tokenizer as clients load it, which the checkpoint has in its GGUF file."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (file,) = CHECKPOINT.glob("*.gguf")
    AutoTokenizer.from_pretrained(CHECKPOINT, gguf_file=file.name).save_pretrained(folder)
    return str(folder)

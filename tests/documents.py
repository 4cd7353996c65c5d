"""Small models under the names that KServe's documented InferenceServices in configs/ use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.e2e.checkpoints import text_classification, text_generation, token_classification
from tests.project import ROOT
from tests.runners.kernels.compiled import FOLDER as KERNELS
from tests.runners.storage import fake_s3
from tests.runners.storage.fake_hub import FakeHub

TOKEN = "hf_of_the_secret"

#: Served by other tests, because their models are files of the demonstration.
_OTHERS = ("demo.yaml", "quickstart.yaml")

_HUB = {
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
def serve_document_models(folder: Path, hub: FakeHub) -> Iterator[dict[str, str]]:
    """Serve the documents' models from a hub and a store; yield their variables."""
    secret = folder / "secrets" / "hf-secret"
    secret.mkdir(parents=True)
    (secret / "token").write_text(f"{TOKEN}\n")
    # The compiled code is shared; several runners would otherwise compile all of it at the same time.
    KERNELS.mkdir(parents=True, exist_ok=True)
    (folder / "store").mkdir()
    (folder / "store/kernels").symlink_to(KERNELS, target_is_directory=True)
    for number, (repo, make) in enumerate(_HUB.items()):
        hub.add(repo, make(folder / f"hub-{number}"), token=TOKEN if repo.startswith("private") else None)
    with fake_s3.serving() as store:
        store.add("my-bucket", "custom-model", text_classification(folder / "custom"))
        yield {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_CACHE": str(folder / "hub"),
            "STORAGE_CACHE": str(folder / "store"),
            "SECRETS_DIR": str(folder / "secrets"),
            **store.variables,
        }


def copy_documents(folder: Path) -> dict[str, Path]:
    """Copy the documents and their caches into a folder; return them by service name."""
    folder.mkdir()
    documents = {}
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        if path.name not in _OTHERS:
            text = path.read_text()
            for cache in ("/tmp/transformers_cache", "/models/cache"):
                text = text.replace(cache, str(folder / "cache"))
            copy = folder / path.name
            copy.write_text(text)
            documents[yaml.safe_load(text)["metadata"]["name"]] = copy
    return documents

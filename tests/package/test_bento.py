"""Promise: a Bento has all that it needs, nothing else, and can serve any models."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.e2e import checkpoints
from tests.e2e.server import Server, serving
from tests.package.bentos import MARK, PLANTED, build, import_model
from tests.project import ROOT

pytestmark = pytest.mark.xdist_group("bento")

#: Folders for development or for running the image.
_LEFT_OUT = {".ci", "benchmarks", "commands", "deployment", "docs", "tests"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bentoml")


@pytest.fixture(scope="module")
def bento(home: Path) -> Path:
    """Build a Bento with a model, while STORAGE_URI is set as well."""
    model = checkpoints.text_classification(home / "Sentiment_Model")
    (model / "notes.pdf").write_text("not needed to serve it")
    return build(home, "--arg", f"model={import_model(home, model)}", STORAGE_URI=str(model))


@pytest.fixture(scope="module")
def served(bento: Path, home: Path) -> Iterator[Server]:
    with serving(bento=str(bento), BENTOML_HOME=str(home)) as server:
        yield server


def _tracked() -> set[str]:
    files = subprocess.check_output(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    return {name for name in files.decode().splitlines() if (ROOT / name).exists()}


def test_a_bento_holds_the_code_the_configurations_and_the_lock_and_nothing_else(bento: Path) -> None:
    files = {path.relative_to(bento / "src").as_posix() for path in (bento / "src").rglob("*") if path.is_file()}
    modules = {name for name in _tracked() if "/" not in name and name.endswith(".py")}
    folders = {name for name in _tracked() if "/" in name and name.partition("/")[0] not in _LEFT_OUT}
    commands = {"commands/__init__.py", "commands/check.py"}
    assert files == modules | folders | commands | {"LICENSE", "requirements.txt", "bentofile.yaml"}


def test_every_package_of_a_bento_is_pinned(bento: Path) -> None:
    lines = (bento / "env" / "python" / "requirements.txt").read_text().splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    assert {line.partition("==")[0] for line in requirements} >= {"bentoml", "torch", "transformers", "accelerate"}
    assert all("==" in line for line in requirements)


def test_a_bento_refers_to_its_model_by_a_version(bento: Path) -> None:
    runner = yaml.safe_load((bento / "bento.yaml").read_text())["services"][1]
    (model,) = runner["models"]
    assert model["tag"].startswith("sentiment_model:")


def test_unneeded_files_of_a_model_are_not_stored(bento: Path, home: Path) -> None:
    (stored,) = [path for path in (home / "models" / "sentiment_model").iterdir() if path.is_dir()]
    names = {path.name for path in stored.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "notes.pdf" not in names


_SERVICE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: m}
spec:
  predictor:
    huggingface:
      storageUri: https://somebody:planted-uri-Zq7@models.example/m?sig=planted-sig-Zq7
      env:
        - {name: TASK, value: fill-mask}
        - {name: HF_TOKEN, value: planted-literal-Zq7}
        - {name: WANDB_API_KEY, value: planted-library-Zq7}
        - {name: HTTPS_PROXY, value: "http://somebody:planted-proxy-Zq7@proxy.example"}
        - {name: DATABASE_PASSWORD, value: planted-password-Zq7}
        - {name: PASSPHRASE, valueFrom: {secretKeyRef: {name: s, key: k}}}
---
{kind: Secret, metadata: {name: s}, stringData: {k: planted-secret-Zq7}}
"""


def test_no_secret_is_in_a_bento(home: Path, tmp_path: Path) -> None:
    config, keys = tmp_path / "models.yaml", tmp_path / "keys"
    config.write_text(_SERVICE)
    keys.write_text("planted-file-Zq7\n")
    built = build(home, RUNTIME_CONFIG=str(config), API_KEYS_FILE=str(keys), **PLANTED)
    files = [file for file in built.rglob("*") if file.is_file()]
    assert built / "env" / "docker" / "Dockerfile" in files
    assert [file for file in files if MARK in file.read_bytes()] == []


def test_a_bento_serves_its_model_from_an_empty_folder(served: Server) -> None:
    answer = requests.post(f"{served.url}/v1/models/model:predict", json={"instances": ["a film"]}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0][0]["label"] in ("POSITIVE", "NEGATIVE")


def test_a_bento_serves_models_that_it_was_not_built_with(bento: Path, home: Path, tmp_path: Path) -> None:
    names = ("fill-mask", "feature-extraction")
    checkpoints.fill_mask(tmp_path / names[0])
    checkpoints.feature_extraction(tmp_path / names[1])
    documents = [checkpoints.inference_service(name, tmp_path / name, {"TASK": name}) for name in names]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump_all(documents))
    config = str(tmp_path / "models.yaml")
    with serving(bento=str(bento), models=2, BENTOML_HOME=str(home), RUNTIME_CONFIG=config) as server:
        assert set(requests.get(f"{server.url}/v1/models", timeout=60).json()["models"]) == set(names)


def test_a_bento_without_a_model_names_the_missing_setting(home: Path) -> None:
    server = Server({"BENTOML_HOME": str(home)}, bento=str(build(home)))
    try:
        assert server.wait_ended() != 0
        assert server.count("Error: STORAGE_URI is not set") == 1
    finally:
        server.stop()

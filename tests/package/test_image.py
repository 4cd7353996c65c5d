"""Promise: BentoML's image is small, needs no root or writable disk, and drains on SIGTERM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.e2e.checkpoints import CHECKPOINTS, text_classification, write_all
from tests.package.bentos import MARK, PLANTED, build, import_model
from tests.package.images import Builder, Image, running, what_is_missing
from tests.project import ROOT
from tests.tiny import llama_model

pytestmark = [pytest.mark.image, pytest.mark.xdist_group("image")]

#: The only writable folder apart from /tmp, as in deployment/.
_CACHE = {"HOME": "/cache", "BENTOML_HOME": "/cache/bentoml", "CALIBRATION_SECONDS": "0", "TORCH_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Build an image with a model and with the PyTorch that this machine's pip would install."""
    if (missing := what_is_missing()) is not None:
        if os.environ.get("IMAGE_TEST_REQUIRED"):
            pytest.fail(missing)
        pytest.skip(missing)
    home = tmp_path_factory.mktemp("bentoml")
    model = llama_model(tmp_path_factory.mktemp("model") / "writer", context=4096)
    bento = build(home, "--arg", "torch=index", "--arg", f"model={import_model(home, model)}", **PLANTED)
    builder = Builder(tmp_path_factory.mktemp("images"), home)
    try:
        yield builder.containerize(f"{bento.parent.name}:{bento.name}", **PLANTED)
    finally:
        builder.remove_all()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Create a volume that every user may write to."""
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    tmp_path.chmod(0o755)
    return folder


def _let_all_read(folder: Path) -> None:
    """Make files readable for all users.

    safetensors restricts them to their owner, and the image has another user.
    """
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_an_image_has_no_compilers_and_no_caches(image: Image) -> None:
    assert image.find("python3")
    assert not image.find("cc", "gcc", "g++", "make", "ld", "git")
    caches = [*image.root.glob("root/.cache/*"), *image.root.glob("home/*/.cache/*"), *image.root.glob("cache/*")]
    assert not caches
    assert not list(image.root.glob("home/bentoml/bento/src/tests"))
    print(f"{image.size / 1e9:.2f} GB")


def test_no_secret_is_in_an_image_or_its_history(image: Image) -> None:
    assert "history" in image.told
    assert MARK.decode() not in image.told
    # The places that a build writes to; all other files come from packages.
    written = [path for place in ("home", "root", "etc", "tmp") for path in (image.root / place).rglob("*")]
    files = [path for path in written if path.is_file() and not path.is_symlink()]
    assert [path for path in files if MARK in path.read_bytes()] == []


def test_an_image_does_not_run_as_root_and_cannot_change_its_packages(image: Image) -> None:
    assert image.config["User"] == "bentoml"
    packages, cache = image.root / "app/.venv/lib/python3.11/site-packages/torch", image.root / "cache"
    assert packages.stat().st_uid == 0
    assert cache.stat().st_uid != 0


def test_an_image_serves_its_model_and_drains_on_sigterm(image: Image, cache: Path) -> None:
    body = {"instances": ["Paris"], "parameters": {"max_new_tokens": 600, "ignore_eos": True, "stream": True}}
    with running(image, _CACHE, {"/cache": cache}) as server:
        assert all(uid != 0 for uid in server.first_process.uids())
        assert requests.get(f"{server.url}/livez", timeout=60).status_code == 200
        assert requests.get(f"{server.url}/readyz", timeout=60).status_code == 200
        stream = requests.post(f"{server.url}/v1/models/model:predict", json=body, stream=True, timeout=60)
        lines = (json.loads(line) for line in stream.iter_lines() if line)
        assert "generated_text" in next(lines)
        processes = server.first_process.children(recursive=True)
        server.terminate()
        while requests.get(f"{server.url}/readyz", timeout=60).status_code == 200:
            pass
        *_, last = lines
        assert "error" not in last
        server.wait_ended()
        assert not [process for process in processes if process.is_running()]


def test_an_image_serves_all_tasks_from_a_volume(image: Image, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "seven"
    config = write_all(folder)
    _let_all_read(folder)
    # /tmp of the container is another folder than /tmp here.
    config.write_text(config.read_text().replace(str(folder), "/models"))
    variables = {**_CACHE, "RUNTIME_CONFIG": f"/models/{config.name}"}
    with running(image, variables, {"/cache": cache, "/models": folder}, models=len(CHECKPOINTS)) as server:
        names = requests.get(f"{server.url}/v1/models", timeout=60).json()["models"]
        assert set(names) == set(CHECKPOINTS)
        for name in names:
            text = {"question": "Who?", "context": "Ada wrote it."} if name == "question-answering" else "A [MASK]."
            answer = requests.post(f"{server.url}/v1/models/{name}:predict", json={"instances": [text]}, timeout=60)
            assert answer.status_code == 200, (name, answer.text)


def test_an_image_runs_as_a_runtime_of_kserve(image: Image, cache: Path, tmp_path: Path) -> None:
    _let_all_read(text_classification(tmp_path / "sentiment"))
    document = yaml.safe_load((ROOT / "deployment" / "kserve" / "cluster-serving-runtime.yaml").read_text())
    (container,) = document["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    variables |= {"MODEL_NAME": "sentiment", "CALIBRATION_SECONDS": "0"}
    _, *command = container["command"]  # the entry point is the image's
    with running(
        image,
        {name: value for name, value in variables.items() if name != "BENTOML_PORT"},
        {"/cache": cache, "/mnt/models": tmp_path / "sentiment"},
        command=[*command, "--return_probabilities"],
    ) as server:
        answer = requests.post(f"{server.url}/v1/models/sentiment:predict", json={"instances": ["fine"]}, timeout=60)
        assert {score["label"] for score in answer.json()["predictions"][0]} == {"NEGATIVE", "POSITIVE"}

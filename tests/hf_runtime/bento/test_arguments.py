"""Promise: each `--arg` has an effect or is refused, and decides what an image installs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer

from hf_runtime.bento.arguments import UV, image, read_arguments
from hf_runtime.settings import SettingsError
from tests.project import ROOT


@pytest.fixture
def given() -> Iterator[dict[str, Any]]:
    """Set the arguments of the process, as BentoML stores them."""
    before = BentoMLContainer.bento_arguments.get()
    arguments: dict[str, Any] = {}
    BentoMLContainer.bento_arguments.set(arguments)
    yield arguments
    BentoMLContainer.bento_arguments.set(before)


def test_no_argument_is_required(given: dict[str, Any]) -> None:
    arguments = read_arguments()
    assert (arguments.config, arguments.model_uri, arguments.torch) == (None, None, "cpu")


def test_a_model_argument_names_a_model_of_the_store(given: dict[str, Any]) -> None:
    given |= {"model": "bert:abc", "config": "models.yaml"}
    assert read_arguments().model_uri == "bentoml://bert:abc"
    assert read_arguments().config == Path("models.yaml")


@pytest.mark.parametrize("tag", ["bert", "bert:latest", "hf://owner/bert", "a b:c", ":v", "bert:"])
def test_a_model_without_a_version_is_refused_because_the_newest_may_change(given: dict[str, Any], tag: str) -> None:
    given["model"] = tag
    with pytest.raises(SettingsError, match=r"^--arg model: must be a tag with its version"):
        read_arguments()


@pytest.mark.parametrize("torch", ["", "gpu", "cuda", "cpu\n[pip]", "cu130; rm"])
def test_an_unknown_build_of_torch_is_refused(given: dict[str, Any], torch: str) -> None:
    given["torch"] = torch
    with pytest.raises(SettingsError, match=r"^--arg torch: must be cpu, a version of CUDA"):
        read_arguments()


def test_an_unknown_argument_is_refused_with_a_list_of_the_known_ones(given: dict[str, Any]) -> None:
    given["modle"] = "bert:abc"
    with pytest.raises(SettingsError, match=r"^--arg modle: is not an argument .* known are config, model, torch$"):
        read_arguments()


@pytest.mark.parametrize(
    ("torch", "expected"), [("cpu", 'torch-backend = "cpu"'), ("cu130", 'torch-backend = "cu130"'), ("index", None)]
)
def test_an_image_gets_the_requested_build_of_torch(torch: str, expected: str | None) -> None:
    commands = "\n".join(image(torch).commands)
    assert re.findall(r"torch-backend = \"\w+\"", commands) == ([expected] if expected else [])


def test_an_image_installs_no_compilers_and_keeps_no_caches() -> None:
    commands = "\n".join(image("cpu").commands)
    assert not re.search(r"build-essential|gcc|apt-get|git", commands)
    assert "--no-cache-dir" in commands
    assert "no-cache = true" in commands


def test_an_image_is_installed_with_the_versions_that_build_bentos_here() -> None:
    lock = (ROOT / "requirements-dev.txt").read_text().splitlines()
    assert f"uv=={UV}" in lock

"""Servers shared by several modules; their tests form the xdist groups `seven` and `plain`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.checkpoints import CHECKPOINTS, text_classification, write_all
from tests.e2e.server import Server, serving


@pytest.fixture(scope="session")
def seven_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with one model folder per task, named after the task."""
    return tmp_path_factory.mktemp("seven")


@pytest.fixture(scope="session")
def seven_server(seven_folder: Path) -> Iterator[Server]:
    """Serve all seven models, each under the name of its task."""
    with serving(models=len(CHECKPOINTS), RUNTIME_CONFIG=str(write_all(seven_folder))) as server:
        yield server


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the model."""
    return text_classification(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def plain_server(plain_folder: Path) -> Iterator[Server]:
    """Serve one model that classifies text, with its location as the only setting.

    The last of the tests, in the order of names, stops it.
    """
    with serving(STORAGE_URI=str(plain_folder)) as server:
        yield server

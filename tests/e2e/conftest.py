"""Servers of several modules, whose tests are in the xdist group of the same name: `seven` and `plain`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.checkpoints import CHECKPOINTS, text_classification, write_all
from tests.e2e.server import Server, serving


@pytest.fixture(scope="session")
def seven_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models are, each in a folder with the name of its task."""
    return tmp_path_factory.mktemp("seven")


@pytest.fixture(scope="session")
def seven_server(seven_folder: Path) -> Iterator[Server]:
    """All seven, each under the name of its task."""
    with serving(models=len(CHECKPOINTS), RUNTIME_CONFIG=str(write_all(seven_folder))) as server:
        yield server


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model is."""
    return text_classification(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def plain_server(plain_folder: Path) -> Iterator[Server]:
    """One model that classifies texts, and no setting but where it is; the last of the tests, by name, stops it."""
    with serving(STORAGE_URI=str(plain_folder)) as server:
        yield server

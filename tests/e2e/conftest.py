"""One server of all seven tasks, for every module whose tests are in the xdist group `seven`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.checkpoints import CHECKPOINTS, write_all
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

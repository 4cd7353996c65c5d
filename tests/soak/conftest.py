"""Options of the long tests of `make soak`, which print their figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for their duration."""
    parser.addoption("--soak-minutes", type=float, default=30, help="of mixed tasks, streams and disconnects")
    parser.addoption("--fuzz-minutes", type=float, default=10, help="of hostile requests on every route")
    parser.addoption("--overload-seconds", type=float, default=60, help="of four times what the server can do")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder as long."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.soak)


@pytest.fixture
def print_line(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that prints a line even if pytest captures the output."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{request.node.name}: {text}", flush=True)

    return line

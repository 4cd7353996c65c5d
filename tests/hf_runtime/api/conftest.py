"""Servers for the tests of the protocols."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hf_runtime.api.openai_server import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(MAX_INSTANCES=6, MAX_BODY_SIZE=20_000) as server:
        yield server

"""Fixture that keeps settings of the test run's environment out of the tests."""

from __future__ import annotations

import os

import pytest

from hf_runtime.settings.load import _STORAGE, _variables
from hf_runtime.settings.model import ModelSettings
from hf_runtime.settings.server import ServerSettings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _variables(ModelSettings) | _variables(ServerSettings)
    for name in os.environ:
        if name in settings or _STORAGE.fullmatch(name):
            monkeypatch.delenv(name)

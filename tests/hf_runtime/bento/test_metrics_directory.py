"""Promise: a full disk for metrics is reported before it kills a process."""

from __future__ import annotations

import shutil
from typing import NamedTuple

import pytest

from hf_runtime.bento.metrics_directory import use_private_metrics_directory
from hf_runtime.settings import SettingsError


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_full_disk_is_refused_before_it_kills_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: _Usage(2**30, 2**30 - 4096, 4096))
    with pytest.raises(SettingsError, match=r"^BENTOML_HOME: 4 KiB are free in .*, where processes keep their metrics"):
        use_private_metrics_directory()

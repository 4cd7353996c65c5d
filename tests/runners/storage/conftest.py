"""Fixtures shared by the tests of downloads."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from huggingface_hub import constants

from runners.storage import storage_cache, stores
from tests.runners.storage.fake_hub import FakeHub, serving


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the waits between attempts."""
    backoff = {"init_backoff": timedelta(0), "max_backoff": timedelta(0), "base": 2}
    monkeypatch.setattr(
        stores, "RETRIES", {"max_retries": 0, "backoff": backoff, "retry_timeout": timedelta(seconds=5)}
    )
    monkeypatch.setattr(storage_cache, "sleep", lambda seconds: None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Serve a hub to this process's huggingface_hub, with an empty cache and no waits."""
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "default-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield hub

"""What tests of downloads share."""

from __future__ import annotations

from datetime import timedelta

import pytest

from loading import storage_cache, stores


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waits between tries."""
    backoff = {"init_backoff": timedelta(0), "max_backoff": timedelta(0), "base": 2}
    monkeypatch.setattr(
        stores, "RETRIES", {"max_retries": 0, "backoff": backoff, "retry_timeout": timedelta(seconds=5)}
    )
    monkeypatch.setattr(storage_cache, "sleep", lambda seconds: None)

"""Check of the message about a model that cannot be fetched."""

from __future__ import annotations

import pytest

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage.fetch import fetch


def refusal(settings: ModelSettings, secret: str) -> str:
    """Return the message, which must be one sentence without the secret."""
    with pytest.raises(LoadError) as refused:
        fetch(settings)
    message = str(refused.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert secret not in message
    return message

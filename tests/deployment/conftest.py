"""What a deployment sets is read by the settings: nothing else may be set."""

from __future__ import annotations

from tests.hf_runtime.settings.conftest import _clean_environment

__all__ = ["_clean_environment"]

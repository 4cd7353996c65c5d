"""Fixture that removes all settings but those of a deployment."""

from __future__ import annotations

from tests.hf_runtime.settings.conftest import _clean_environment

__all__ = ["_clean_environment"]

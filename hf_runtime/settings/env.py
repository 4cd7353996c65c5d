"""pydantic-settings configuration that all settings classes share."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

#: Every variable is declared as an alias of its field. The prefix applies only to the field names themselves, so that
#: unrelated variables such as NAME or REVISION have no effect.
SOURCE = SettingsConfigDict(
    env_prefix="HUGGING_FACE_RUNTIME_", env_ignore_empty=True, frozen=True, populate_by_name=True, extra="ignore"
)

"""Where settings come from: environment variables of the names that users of KServe's runtime already set."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

#: Every variable is declared as an alias. The prefix holds for the names of fields alone, so that variables which
#: happen to be called NAME or REVISION mean nothing here.
SOURCE = SettingsConfigDict(
    env_prefix="HUGGING_FACE_RUNTIME_", env_ignore_empty=True, frozen=True, populate_by_name=True, extra="ignore"
)

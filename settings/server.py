"""What holds for the entry service as a whole."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from settings.source import SOURCE


class ServerSettings(BaseSettings):
    """What holds for the entry service as a whole."""

    model_config = SOURCE

    runtime_config: Path | None = Field(
        None, validation_alias="RUNTIME_CONFIG", description="A file of InferenceServices, or a folder of such files."
    )
    secrets_dir: Path = Field(
        Path("/run/secrets"), validation_alias="SECRETS_DIR", description="Where Secrets and ConfigMaps are mounted."
    )
    max_body_size: int = Field(16 * 2**20, validation_alias="MAX_BODY_SIZE", ge=1, description="Bytes.")
    max_instances: int = Field(1024, validation_alias="MAX_INSTANCES", ge=1, description="In one request.")
    request_timeout: float = Field(300.0, validation_alias="REQUEST_TIMEOUT", gt=0, description="Seconds.")
    api_workers: int = Field(1, validation_alias="API_WORKERS", ge=1, description="Processes of the entry service.")
    model_management: bool = Field(
        False, validation_alias="MODEL_MANAGEMENT", description="Clients may load and unload models."
    )
    ce_merge: bool = Field(
        False, validation_alias="CE_MERGE", description="Answers take over the attributes of CloudEvents asked with."
    )
    ce_type: str = Field(
        "io.kserve.inference.response", validation_alias="CE_TYPE", description="Of CloudEvents that are answers."
    )
    ce_source: str | None = Field(
        None, validation_alias="CE_SOURCE", description="Of CloudEvents that are answers; by default the model's."
    )
    access_log: bool = Field(False, validation_alias="ACCESS_LOG", description="One line a request.")
    log_level: str = Field("INFO", validation_alias="LOG_LEVEL", pattern=r"^(?i:debug|info|warning|error|critical)$")

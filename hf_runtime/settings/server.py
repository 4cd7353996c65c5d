"""What holds for the server as a whole: the entry service, and what all of its processes tell of themselves."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from hf_runtime.settings.env import SOURCE


class ServerSettings(BaseSettings):
    """What holds for the server as a whole."""

    model_config = SOURCE

    runtime_config: Path | None = Field(
        None, validation_alias="RUNTIME_CONFIG", description="A file of InferenceServices, or a folder of such files."
    )
    secrets_dir: Path = Field(
        Path("/run/secrets"), validation_alias="SECRETS_DIR", description="Where Secrets and ConfigMaps are mounted."
    )
    api_keys: SecretStr | None = Field(
        None, validation_alias="API_KEYS", description="Of clients, with commas between them; unset, none is needed."
    )
    api_keys_file: Path | None = Field(
        None, validation_alias="API_KEYS_FILE", description="A file of more, one a line; read again when it changes."
    )
    runner_key: SecretStr | None = Field(
        None,
        validation_alias="RUNNER_KEY",
        description="Of the entry service, for runners; at random where clients need keys and it is not set.",
    )
    public_health: bool = Field(True, validation_alias="PUBLIC_HEALTH", description="Health is told without a key.")
    public_metrics: bool = Field(True, validation_alias="PUBLIC_METRICS", description="So are metrics.")
    max_streams_per_key: int | None = Field(
        None, validation_alias="MAX_STREAMS_PER_KEY", ge=1, description="At a time, in each process of the API."
    )
    cors_origins: str | None = Field(
        None,
        validation_alias="CORS_ORIGINS",
        description="Of web pages that may ask, such as https://a.example, with commas between them; * is all.",
    )
    max_body_size: int = Field(16 * 2**20, validation_alias="MAX_BODY_SIZE", ge=1, description="Bytes.")
    max_bodies_size: int | None = Field(
        None,
        validation_alias="MAX_BODIES_SIZE",
        ge=1,
        description="Bytes of all bodies that a process of the API holds; 256 MiB, or four of MAX_BODY_SIZE, if unset.",
    )
    body_timeout: float = Field(
        60.0, validation_alias="BODY_TIMEOUT", gt=0, description="Seconds in which a body must be received."
    )
    max_answers_size: int = Field(
        256 * 2**20,
        validation_alias="MAX_ANSWERS_SIZE",
        ge=1,
        description="Bytes of all answers to one request, as they come from the model.",
    )
    max_instances: int = Field(1024, validation_alias="MAX_INSTANCES", ge=1, description="In one request.")
    request_timeout: float = Field(300.0, validation_alias="REQUEST_TIMEOUT", gt=0, description="Seconds.")
    drain_seconds: float = Field(
        25.0, validation_alias="DRAIN_SECONDS", ge=0, le=28, description="That requests may take once the server stops."
    )
    api_workers: int = Field(1, validation_alias="API_WORKERS", ge=1, description="Processes of the entry service.")
    model_management: bool = Field(
        False, validation_alias="MODEL_MANAGEMENT", description="Clients may load and unload models."
    )
    exit_on_failure: bool = Field(
        False,
        validation_alias="EXIT_ON_FAILURE",
        description="End with status 1 once every model has failed, and none is tried again.",
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

    log_format: Literal["text", "json"] = Field("text", validation_alias="LOG_FORMAT")
    log_payloads: bool = Field(
        False, validation_alias="LOG_PAYLOADS", description="Log instances, parameters and answers."
    )

    # OpenTelemetry's own variables; the others (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER …) are read by its SDK.
    # https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    otel_sdk_disabled: bool = Field(False, validation_alias="OTEL_SDK_DISABLED")
    otel_traces_exporter: str | None = Field(None, validation_alias="OTEL_TRACES_EXPORTER")
    otlp_endpoint: str | None = Field(
        None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT", description="A collector's base URL."
    )
    otlp_traces_endpoint: str | None = Field(
        None, validation_alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", description="Its URL for traces, with path."
    )
    otlp_protocol: str = Field(
        "http/protobuf",
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
    )

    @property
    def keys(self) -> list[str]:
        """The API keys that do not come from a file."""
        return [] if self.api_keys is None else _listed(self.api_keys.get_secret_value())

    @property
    def bodies_size(self) -> int:
        """Bytes of all bodies that a process of the API holds."""
        return self.max_bodies_size or max(256 * 2**20, 4 * self.max_body_size)

    @property
    def runner_keys(self) -> list[str]:
        """Those of clients and of the entry service that runners take and that are in no file."""
        return self.keys if self.runner_key is None else [*self.keys, self.runner_key.get_secret_value()]

    @property
    def needs_keys(self) -> bool:
        """Whether clients do."""
        return self.api_keys is not None or self.api_keys_file is not None

    @property
    def origins(self) -> list[str]:
        """The origins of web pages that may ask."""
        return _listed(self.cors_origins or "")

    @field_validator("api_keys")
    @classmethod
    def _holds_a_key(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None and not _listed(keys.get_secret_value()):
            raise ValueError("holds no key")
        return keys

    @field_validator("runner_key")
    @classmethod
    def _fits_into_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None:
            return None
        stripped = key.get_secret_value().strip()
        if not re.fullmatch(r"[!-~]+", stripped):
            raise ValueError("must be one word of ASCII characters: it is sent in a header")
        return SecretStr(stripped)

    @field_validator("api_keys_file")
    @classmethod
    def _can_be_read(cls, file: Path | None) -> Path | None:
        if file is not None:
            try:
                file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"cannot be read: {error}") from None
        return file

    @property
    def traces_url(self) -> str | None:
        """Where traces are sent; None if nothing asks for any."""
        exporters = {name.strip() for name in (self.otel_traces_exporter or "").split(",") if name.strip()}
        asked = "otlp" in exporters or (not exporters and (self.otlp_traces_endpoint or self.otlp_endpoint))
        if self.otel_sdk_disabled or not asked:
            return None
        return self.otlp_traces_endpoint or (self.otlp_endpoint or "http://localhost:4318").rstrip("/") + "/v1/traces"

    def notes(self) -> Iterator[str]:
        """What was asked for and is done differently."""
        if self.traces_url is not None and self.otlp_protocol != "http/protobuf":
            yield (
                f"OTEL_EXPORTER_OTLP_PROTOCOL={self.otlp_protocol}: traces are sent as http/protobuf, "
                f"to {self.traces_url}"
            )
        exporters = (self.otel_traces_exporter or "none").split(",")
        if unknown := [name.strip() for name in exporters if name.strip() not in ("otlp", "none")]:
            yield f"OTEL_TRACES_EXPORTER={','.join(unknown)}: only otlp is here"


def with_runner_key(server: ServerSettings) -> ServerSettings:
    """The same settings, with a key of the entry service if clients need keys.

    It lets the entry service in at runners. Where none is set, the first process makes one, at random. The processes
    that it starts inherit its environment, and so does one that takes the place of another: no file and no command
    line ever holds the key.
    """
    if not server.needs_keys or server.runner_key is not None:
        return server
    key = secrets.token_urlsafe(32)
    os.environ["RUNNER_KEY"] = key
    return server.model_copy(update={"runner_key": SecretStr(key)})


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]

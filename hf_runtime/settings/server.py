"""Settings of the whole server: the entry service, and logs and traces of all processes."""

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
    """Settings of the whole server."""

    model_config = SOURCE

    runtime_config: Path | None = Field(
        None,
        validation_alias="RUNTIME_CONFIG",
        description="File of InferenceServices, or a folder of such files. If set, `STORAGE_URI` is ignored.",
    )
    secrets_dir: Path = Field(
        Path("/run/secrets"),
        validation_alias="SECRETS_DIR",
        description="Folder where Secrets and ConfigMaps are mounted, as files `name/key`.",
    )
    api_keys: SecretStr | None = Field(
        None,
        validation_alias="API_KEYS",
        description=(
            "API keys of clients, separated by commas. If this and `API_KEYS_FILE` are unset, clients need no key."
        ),
    )
    api_keys_file: Path | None = Field(
        None,
        validation_alias="API_KEYS_FILE",
        description="File with API keys of clients, one per line. The server reads it again when it changes.",
    )
    runner_key: SecretStr | None = Field(
        None,
        validation_alias="RUNNER_KEY",
        description=(
            "API key that the entry service sends to the runners. Set it if the entry service and the runners start "
            "separately. If unset, the server creates a random one if clients need keys."
        ),
    )
    public_health: bool = Field(
        True, validation_alias="PUBLIC_HEALTH", description="Accept requests to health routes without an API key."
    )
    public_metrics: bool = Field(
        True, validation_alias="PUBLIC_METRICS", description="Accept requests to `/metrics` without an API key."
    )
    max_streams_per_key: int | None = Field(
        None,
        validation_alias="MAX_STREAMS_PER_KEY",
        ge=1,
        description=(
            "Maximum number of streams per API key at the same time, in each process of the entry service. If clients "
            "need no key, the limit is for all clients together. If unset, there is no limit."
        ),
    )
    cors_origins: str | None = Field(
        None,
        validation_alias="CORS_ORIGINS",
        description=(
            "Origins of web pages that may call the server, separated by commas, such as `https://a.example`. `*` "
            "allows all. If unset, web pages of other origins cannot call the server."
        ),
    )
    max_body_size: int = Field(
        16 * 2**20,
        validation_alias="MAX_BODY_SIZE",
        ge=1,
        description="Maximum size of one request body in bytes, after decompression.",
    )
    max_bodies_size: int | None = Field(
        None,
        validation_alias="MAX_BODIES_SIZE",
        ge=1,
        description=(
            "Maximum size in bytes of all request bodies that one process of the entry service holds at the same time, "
            "from the first byte to the answer. If unset, 256 MiB or four times `MAX_BODY_SIZE`, whichever is larger."
        ),
    )
    body_timeout: float = Field(
        60.0, validation_alias="BODY_TIMEOUT", gt=0, description="Maximum time in seconds to receive a request body."
    )
    max_answers_size: int = Field(
        256 * 2**20,
        validation_alias="MAX_ANSWERS_SIZE",
        ge=1,
        description="Maximum size in bytes of all answers to one request, as the model returns them.",
    )
    max_instances: int = Field(
        1024, validation_alias="MAX_INSTANCES", ge=1, description="Maximum number of instances in one request."
    )
    request_timeout: float = Field(
        300.0,
        validation_alias="REQUEST_TIMEOUT",
        gt=0,
        description="Maximum time in seconds to answer a request. For a stream, maximum time between two parts of it.",
    )
    openai_unknown_fields: Literal["ignore", "refuse"] = Field(
        "ignore",
        validation_alias="OPENAI_UNKNOWN_FIELDS",
        description=(
            "What to do with fields of an OpenAI request that the server does not know. `ignore` names them in the log "
            "and in the header `X-Ignored-Fields` of the answer; `refuse` answers 400. A known field that the server "
            "does not support is a 400 either way."
        ),
    )
    drain_seconds: float = Field(
        25.0,
        validation_alias="DRAIN_SECONDS",
        ge=0,
        le=28,
        description=(
            "Time in seconds that running requests have to finish when the server stops. Requests that need more time "
            "end with an error."
        ),
    )
    api_workers: int = Field(
        1, validation_alias="API_WORKERS", ge=1, description="Number of processes of the entry service."
    )
    model_management: bool = Field(
        False,
        validation_alias="MODEL_MANAGEMENT",
        description="Allow clients to load and unload the configured models.",
    )
    exit_on_failure: bool = Field(
        False,
        validation_alias="EXIT_ON_FAILURE",
        description="Exit with status 1 when every model has failed and the server will not retry any of them.",
    )
    ce_merge: bool = Field(
        False, validation_alias="CE_MERGE", description="Copy the attributes of a CloudEvent request to its answer."
    )
    ce_type: str = Field(
        "io.kserve.inference.response", validation_alias="CE_TYPE", description="Type of CloudEvents in answers."
    )
    ce_source: str | None = Field(
        None,
        validation_alias="CE_SOURCE",
        description="Source of CloudEvents in answers. If unset, `io.kserve.inference.` and the name of the model.",
    )
    access_log: bool = Field(False, validation_alias="ACCESS_LOG", description="Log one line for each request.")
    log_level: str = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        pattern=r"^(?i:debug|info|warning|error|critical)$",
        description="Least severe level that is logged. `DEBUG` reports how each batch was formed.",
    )

    log_format: Literal["text", "json"] = Field(
        "text", validation_alias="LOG_FORMAT", description="Format of the log. `json` logs one JSON object per line."
    )
    log_payloads: bool = Field(
        False, validation_alias="LOG_PAYLOADS", description="Log instances, parameters and answers."
    )

    # Standard variables of OpenTelemetry. Its SDK reads the others itself (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER …).
    # https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    otel_sdk_disabled: bool = Field(
        False, validation_alias="OTEL_SDK_DISABLED", description="Turn tracing off, even if other variables turn it on."
    )
    otel_traces_exporter: str | None = Field(
        None,
        validation_alias="OTEL_TRACES_EXPORTER",
        description="Exporter of traces: `otlp` or `none`. If unset, `otlp` if an endpoint is set.",
    )
    otlp_endpoint: str | None = Field(
        None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description=(
            "URL of an OpenTelemetry collector. Traces go to `/v1/traces` under it. If unset, `http://localhost:4318` "
            "if `OTEL_TRACES_EXPORTER` is `otlp`."
        ),
    )
    otlp_traces_endpoint: str | None = Field(
        None,
        validation_alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        description="Full URL for traces. If unset, `OTEL_EXPORTER_OTLP_ENDPOINT` with `/v1/traces`.",
    )
    otlp_protocol: str = Field(
        "http/protobuf",
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
        description="Protocol of traces. Only `http/protobuf` is supported.",
    )

    @property
    def keys(self) -> list[str]:
        """API keys of clients from API_KEYS; the keys in API_KEYS_FILE are not included."""
        return [] if self.api_keys is None else _split_commas(self.api_keys.get_secret_value())

    @property
    def effective_max_bodies_size(self) -> int:
        """Most bytes of all request bodies in one entry process."""
        return self.max_bodies_size or max(256 * 2**20, 4 * self.max_body_size)

    @property
    def runner_keys(self) -> list[str]:
        """Keys that runners accept: API_KEYS and RUNNER_KEY, without the keys in API_KEYS_FILE."""
        return self.keys if self.runner_key is None else [*self.keys, self.runner_key.get_secret_value()]

    @property
    def requires_api_key(self) -> bool:
        """True if clients need an API key."""
        return self.api_keys is not None or self.api_keys_file is not None

    @property
    def origins(self) -> list[str]:
        """Origins of web pages that may send requests."""
        return _split_commas(self.cors_origins or "")

    @field_validator("api_keys")
    @classmethod
    def _check_api_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None and not _split_commas(keys.get_secret_value()):
            raise ValueError("holds no key")
        return keys

    @field_validator("runner_key")
    @classmethod
    def _check_runner_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None:
            return None
        stripped = key.get_secret_value().strip()
        if not re.fullmatch(r"[!-~]+", stripped):
            raise ValueError("must be one word of ASCII characters: it is sent in a header")
        return SecretStr(stripped)

    @field_validator("api_keys_file")
    @classmethod
    def _check_keys_file(cls, file: Path | None) -> Path | None:
        if file is not None:
            try:
                file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"cannot be read: {error}") from None
        return file

    @property
    def traces_url(self) -> str | None:
        """URL to which traces are sent; None if tracing is off."""
        exporters = {name.strip() for name in (self.otel_traces_exporter or "").split(",") if name.strip()}
        enabled = "otlp" in exporters or (not exporters and (self.otlp_traces_endpoint or self.otlp_endpoint))
        if self.otel_sdk_disabled or not enabled:
            return None
        return self.otlp_traces_endpoint or (self.otlp_endpoint or "http://localhost:4318").rstrip("/") + "/v1/traces"

    def notes(self) -> Iterator[str]:
        """Yield notes about settings that the server does not follow exactly."""
        if self.traces_url is not None and self.otlp_protocol != "http/protobuf":
            yield (
                f"OTEL_EXPORTER_OTLP_PROTOCOL={self.otlp_protocol}: traces are sent as http/protobuf, "
                f"to {self.traces_url}"
            )
        exporters = (self.otel_traces_exporter or "none").split(",")
        if unknown := [name.strip() for name in exporters if name.strip() not in ("otlp", "none")]:
            yield f"OTEL_TRACES_EXPORTER={','.join(unknown)}: only otlp is here"


def ensure_runner_key(server: ServerSettings) -> ServerSettings:
    """Return the settings with a RUNNER_KEY, if clients need keys.

    Runners accept the entry service by this key. If it is not set, the first process creates a random one and stores it
    in its environment, which child processes and their replacements inherit. The key is never in a file or on a command
    line.
    """
    if not server.requires_api_key or server.runner_key is not None:
        return server
    key = secrets.token_urlsafe(32)
    os.environ["RUNNER_KEY"] = key
    return server.model_copy(update={"runner_key": SecretStr(key)})


def _split_commas(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]

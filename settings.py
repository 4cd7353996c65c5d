"""All settings, read once at the top: environment variables, or InferenceService documents over them.

The names are those that users of KServe's Hugging Face runtime already set. Nothing below this module reads the
environment; every room is handed the frozen objects made here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AliasChoices, BaseModel, ByteSize, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Task = Literal[
    "text-classification",
    "token-classification",
    "question-answering",
    "text-generation",
    "text2text-generation",
    "fill-mask",
    "feature-extraction",
]
AggregationStrategy = Literal["none", "simple", "first", "average", "max"]
TorchDtype = Literal["auto", "float32", "float16", "bfloat16"]
Pooling = Literal["none", "mean", "cls", "max", "last_token"]

ModelT = TypeVar("ModelT", bound=BaseModel)

_SOURCE = SettingsConfigDict(env_ignore_empty=True, frozen=True, populate_by_name=True, extra="ignore")


class SettingsError(Exception):
    """The configuration cannot be used; the message is one readable line."""


class ModelSettings(BaseSettings):
    """What one model is and how its runner computes. Units stand in the field descriptions."""

    model_config = _SOURCE

    name: str = Field("model", validation_alias="MODEL_NAME", min_length=1, pattern=r"^[^/:\s]+$")
    storage_uri: str = Field(validation_alias="STORAGE_URI", description="Where the model is.")
    task: Task | None = Field(None, validation_alias="TASK", description="From the model's config.json if unset.")
    revision: str | None = Field(None, validation_alias="MODEL_REVISION", description="Branch, tag or commit.")
    gguf_file: str | None = Field(None, validation_alias="GGUF_FILE", description="Which GGUF file, if several.")
    hf_token: SecretStr | None = Field(
        None, validation_alias=AliasChoices("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), description="For private models."
    )
    cache_dir: Path | None = Field(
        None,
        validation_alias=AliasChoices("HF_HUB_CACHE", "TRANSFORMERS_CACHE"),
        description="Folder of downloaded models; huggingface_hub's own (HF_HOME) if unset.",
    )
    trust_remote_code: bool = Field(False, validation_alias="TRUST_REMOTE_CODE")

    torch_dtype: TorchDtype | None = Field(
        None, validation_alias="TORCH_DTYPE", description="float32 on a CPU and the checkpoint's own on a GPU if unset."
    )
    device_map: str | None = Field(None, validation_alias="DEVICE_MAP")
    load_in_8bit: bool = Field(False, validation_alias="LOAD_IN_8BIT")
    load_in_4bit: bool = Field(False, validation_alias="LOAD_IN_4BIT")
    cuda_memory_fraction: float | None = Field(None, validation_alias="TORCH_CUDA_MEMORY_FRACTION", gt=0, le=1)
    cuda_visible_devices: str | None = Field(None, validation_alias="CUDA_VISIBLE_DEVICES")
    gpus: Annotated[float, Field(ge=0)] = Field(
        0, validation_alias="GPUS", description="GPUs reserved for this model's runner; a fraction shares one."
    )
    torch_threads: int | None = Field(None, validation_alias="TORCH_NUM_THREADS", ge=1)

    max_length: int = Field(20, validation_alias="MAX_LENGTH", ge=1, description="Tokens, the prompt included.")
    temperature: float = Field(1.0, validation_alias="TEMPERATURE", ge=0, allow_inf_nan=False)
    do_sample: bool = Field(False, validation_alias="DO_SAMPLE")
    top_k: int = Field(50, validation_alias="TOP_K", ge=0)
    top_p: float = Field(1.0, validation_alias="TOP_P", gt=0, le=1)
    return_full_text: bool = Field(True, validation_alias="RETURN_FULL_TEXT")
    aggregation_strategy: AggregationStrategy = Field("none", validation_alias="AGGREGATION_STRATEGY")
    pooling: Pooling | None = Field(
        None, validation_alias="POOLING", description="From the model's sentence-transformers files if unset."
    )
    normalize: bool | None = Field(None, validation_alias="NORMALIZE", description="As for pooling.")
    matryoshka: bool | None = Field(
        None,
        validation_alias="MATRYOSHKA",
        description="Whether vectors may be cut; from the model's config if unset.",
    )
    truncation: bool = Field(False, validation_alias="TRUNCATION", description="Cut texts longer than the model.")

    max_batch_size: int | None = Field(None, validation_alias="MAX_BATCH_SIZE", ge=1, description="Rows in a batch.")
    max_batch_tokens: int | None = Field(
        None, validation_alias="MAX_BATCH_TOKENS", ge=1, description="Tokens in a batch after padding."
    )
    kv_cache_memory: ByteSize | None = Field(
        None,
        validation_alias="KV_CACHE_MEMORY",
        ge=1,
        description="For keys and values of running sequences, such as 4GiB; a share of what is free if unset.",
    )
    max_text_length: int = Field(
        1_000_000, validation_alias="MAX_TEXT_LENGTH", ge=1, description="Characters in one instance."
    )
    max_queue_size: int = Field(4096, validation_alias="MAX_QUEUE_SIZE", ge=1, description="Items that may wait.")

    log_level: str = Field("INFO", validation_alias="LOG_LEVEL", pattern=r"^(?i:debug|info|warning|error|critical)$")
    transformers_verbosity: Literal["detail", "debug", "info", "warning", "error", "critical"] = Field(
        "warning", validation_alias="TRANSFORMERS_VERBOSITY"
    )

    @model_validator(mode="after")
    def _one_quantization(self) -> Self:
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("LOAD_IN_8BIT and LOAD_IN_4BIT cannot both be true; choose one")
        return self

    @property
    def explicit_max_length(self) -> int | None:
        """`max_length` if the operator set it, else None: the default of 20 means 20 new tokens."""
        return self.max_length if "max_length" in self.model_fields_set else None


class ServerSettings(BaseSettings):
    """What holds for the entry service as a whole."""

    model_config = _SOURCE

    runtime_config: Path | None = Field(None, validation_alias="RUNTIME_CONFIG")
    max_body_size: int = Field(16 * 2**20, validation_alias="MAX_BODY_SIZE", ge=1, description="Bytes.")
    max_instances: int = Field(1024, validation_alias="MAX_INSTANCES", ge=1, description="In one request.")
    request_timeout: float = Field(300.0, validation_alias="REQUEST_TIMEOUT", gt=0, description="Seconds.")
    api_workers: int = Field(1, validation_alias="API_WORKERS", ge=1, description="Processes of the entry service.")
    access_log: bool = Field(False, validation_alias="ACCESS_LOG", description="One line a request.")
    log_level: str = Field("INFO", validation_alias="LOG_LEVEL", pattern=r"^(?i:debug|info|warning|error|critical)$")


class Settings(BaseModel):
    """Everything that was configured: the server and its models, none if nothing names one."""

    model_config = ConfigDict(frozen=True)

    server: ServerSettings
    models: tuple[ModelSettings, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Env(_Strict):
    name: str
    value: str


class _Predictor(_Strict):
    storageUri: str
    env: list[_Env] = []


class _Spec(_Strict):
    class _Component(_Strict):
        huggingface: _Predictor

    predictor: _Component


class _Metadata(_Strict):
    name: str


class InferenceService(_Strict):
    """The part of KServe's v1beta1 InferenceService that says which model to serve and how."""

    apiVersion: Literal["serving.kserve.io/v1beta1"]
    kind: Literal["InferenceService"]
    metadata: _Metadata
    spec: _Spec


def load_settings() -> Settings:
    """Read the environment, and the file that RUNTIME_CONFIG names.

    Raises:
        SettingsError: a value is wrong; the message names the variable (and the file) in one line.
    """
    server = _checked(ServerSettings, {}, "")
    if server.runtime_config is not None:
        models = tuple(_models_of_file(server.runtime_config))
    else:
        try:
            models = (ModelSettings(),)
        except ValidationError as error:
            if _only_storage_uri_is_missing(error):
                models = ()
            else:
                raise SettingsError(_one_line(error, "")) from None
    return Settings(server=server, models=models)


def _only_storage_uri_is_missing(error: ValidationError) -> bool:
    return [(e["type"], e["loc"]) for e in error.errors()] == [("missing", ("STORAGE_URI",))]


def _models_of_file(path: Path) -> list[ModelSettings]:
    try:
        documents = [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d is not None]
    except OSError as error:
        raise SettingsError(f"RUNTIME_CONFIG: {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    models = []
    for number, document in enumerate(documents, start=1):
        place = f"{path}, document {number}: "
        service = _checked(InferenceService, document, place)
        predictor = service.spec.predictor.huggingface
        values = {variable.name: variable.value for variable in predictor.env}
        models.append(
            _checked(
                ModelSettings,
                {**values, "MODEL_NAME": service.metadata.name, "STORAGE_URI": predictor.storageUri},
                place,
            )
        )
    names = [model.name for model in models]
    if not models:
        raise SettingsError(f"{path} holds no InferenceService")
    if len(set(names)) < len(names):
        raise SettingsError(f"{path}: two models share a name; metadata.name must be unique")
    return models


def _checked(kind: type[ModelT], values: Any, place: str) -> ModelT:
    try:
        return kind.model_validate(values) if not issubclass(kind, BaseSettings) else kind(**values)
    except ValidationError as error:
        raise SettingsError(_one_line(error, place)) from None


def _one_line(error: ValidationError, place: str) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f" (given: {given!r})" if path and "TOKEN" not in path and isinstance(given, str | int | float) else ""
    return f"{place}{path}{': ' if path else ''}{message}{shown}"

"""Settings of one model and its runner, made from environment variables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings

from hf_runtime.contract.tasks import TASKS
from hf_runtime.contract.tasks.feature_extraction import Pooling
from hf_runtime.contract.tasks.token_classification import AggregationStrategy
from hf_runtime.settings.env import SOURCE
from hf_runtime.settings.quantity import with_byte_unit
from hf_runtime.settings.uri import shown_uri

TorchDtype = Literal["auto", "float32", "float16", "bfloat16"]


#: Name of a task.
if TYPE_CHECKING:
    Task = str
else:
    Task = Literal[*TASKS]

#: Names of the object store variables that hold secrets; others hold regions and addresses.
_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|SAS|CONNECTION_STRING")
#: Values in the JSON that lists the headers for a web server.
_QUOTED = re.compile(r':\s*"([^"]+)"')

#: Size in bytes, as pydantic or as Kubernetes writes it: 4GiB, 4Gi.
Memory = Annotated[ByteSize, BeforeValidator(with_byte_unit)]


class ModelSettings(BaseSettings):
    """Settings of one model and its runner. The field descriptions give the units."""

    model_config = SOURCE

    name: str = Field("model", validation_alias="MODEL_NAME", min_length=1, pattern=r"^[^/:\s]+$")
    storage_uri: str = Field(validation_alias="STORAGE_URI", description="Storage URI of the model.")
    revision: str | None = Field(
        None, validation_alias="MODEL_REVISION", description="Branch, tag or commit on the hub."
    )
    gguf_file: str | None = Field(
        None, validation_alias="GGUF_FILE", description="GGUF file to load, if there are several."
    )
    hf_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        description="Access token for private models.",
    )
    cache_dir: Path | None = Field(
        None,
        validation_alias=AliasChoices("HF_HUB_CACHE", "TRANSFORMERS_CACHE"),
        description="Folder for models from the hub; the default of huggingface_hub (HF_HOME) if unset.",
    )
    hf_endpoint: str | None = Field(None, validation_alias="HF_ENDPOINT", description="URL of another hub.")
    offline: bool = Field(
        False,
        validation_alias=AliasChoices("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
        description="Use cached files only, never the network.",
    )
    storage_cache: Path = Field(
        Path("~/.cache/hugging-face-runtime"),
        validation_alias="STORAGE_CACHE",
        description="Folder for models from other sources than the hub, calibration results and compiled kernels.",
    )
    storage_cache_old_copies: int = Field(
        1,
        validation_alias="STORAGE_CACHE_OLD_COPIES",
        ge=0,
        description="Older copies of each model to keep; a copy that a process serves from is never deleted.",
    )
    pvc_dir: Path = Field(
        Path("/mnt/pvc"), validation_alias="PVC_DIR", description="Folder where pvc:// volumes are mounted."
    )
    storage_options: dict[str, SecretStr] = Field(
        {}, description="Variables for object stores and web servers, unchanged, such as AWS_ACCESS_KEY_ID."
    )
    environment: dict[str, str] = Field(
        {}, description="Other variables of an InferenceService, for libraries and the model's own code."
    )
    secret_environment: dict[str, SecretStr] = Field({}, description="The same, for values from Secrets.")
    base_model: str | None = Field(
        None,
        validation_alias="BASE_MODEL",
        description="Storage URI of an adapter's base model; read from the adapter's config if unset.",
    )
    trust_remote_code: bool = Field(False, validation_alias="TRUST_REMOTE_CODE")
    custom_pipeline: str | None = Field(
        None,
        validation_alias="CUSTOM_PIPELINE",
        description="Model's file with create_pipeline(); if unset, custom_pipeline.py where code is trusted.",
    )
    # Declared after the fields above: its validator needs them to accept tasks that only the model's own code knows.
    task: Task | None = Field(None, validation_alias="TASK", description="Read from the model's config.json if unset.")
    asked_task: str | None = Field(None, validation_alias=AliasChoices("TASK"), description="TASK exactly as given.")

    torch_dtype: TorchDtype | None = Field(
        None,
        validation_alias="TORCH_DTYPE",
        description="If unset, float32 on a CPU and the checkpoint's own type on a GPU.",
    )
    attn_implementation: str | None = Field(None, validation_alias="ATTN_IMPLEMENTATION", pattern=r"^[\w./-]+$")
    device_map: str | None = Field(None, validation_alias="DEVICE_MAP")
    load_in_8bit: bool = Field(False, validation_alias="LOAD_IN_8BIT")
    load_in_4bit: bool = Field(False, validation_alias="LOAD_IN_4BIT")
    quantization: Literal["int8"] | None = Field(
        None,
        validation_alias="QUANTIZATION",
        description="On a CPU, compute linear layers in int8, except the output head.",
    )
    cuda_memory_fraction: float | None = Field(None, validation_alias="TORCH_CUDA_MEMORY_FRACTION", gt=0, le=1)
    cuda_visible_devices: str | None = Field(None, validation_alias="CUDA_VISIBLE_DEVICES")
    gpus: float = Field(
        0,
        validation_alias="GPUS",
        ge=0,
        description="GPUs to reserve for each runner; with a fraction, runners share a GPU.",
    )
    cpus: float | None = Field(None, validation_alias="CPUS", gt=0, description="CPU cores that each runner may use.")
    memory_limit: Memory | None = Field(
        None, validation_alias="MEMORY_LIMIT", ge=1, description="Memory that each runner may use, such as 4Gi."
    )
    replicas: int = Field(1, validation_alias="REPLICAS", ge=1, description="Runners, each with a copy of the model.")
    torch_threads: int | None = Field(None, validation_alias="TORCH_NUM_THREADS", ge=1)

    max_new_tokens: int | None = Field(
        None, validation_alias="MAX_NEW_TOKENS", ge=1, description="Most new tokens that a request may ask for."
    )
    max_length: int = Field(
        20, validation_alias="MAX_LENGTH", ge=1, description="Most tokens of a sequence, including the prompt."
    )
    temperature: float = Field(1.0, validation_alias="TEMPERATURE", ge=0, allow_inf_nan=False)
    do_sample: bool = Field(False, validation_alias="DO_SAMPLE")
    top_k: int = Field(50, validation_alias="TOP_K", ge=0)
    top_p: float = Field(1.0, validation_alias="TOP_P", gt=0, le=1)
    return_full_text: bool = Field(True, validation_alias="RETURN_FULL_TEXT")
    aggregation_strategy: AggregationStrategy = Field("none", validation_alias="AGGREGATION_STRATEGY")
    pooling: Pooling | None = Field(
        None, validation_alias="POOLING", description="Read from the model's sentence-transformers files if unset."
    )
    normalize: bool | None = Field(
        None,
        validation_alias="NORMALIZE",
        description="Scale embeddings to length 1; read from the same files if unset.",
    )
    matryoshka: bool | None = Field(
        None,
        validation_alias="MATRYOSHKA",
        description="Allow shorter embeddings; read from the model's config if unset.",
    )
    max_model_len: int | None = Field(
        None, validation_alias="MAX_MODEL_LEN", ge=1, description="Most input tokens; the model's limit if unset."
    )
    truncation: bool | None = Field(
        None,
        validation_alias="TRUNCATION",
        description="Truncate inputs that are too long; if unset, only with MAX_MODEL_LEN and not for generation.",
    )
    return_probabilities: bool = Field(
        False,
        validation_alias="RETURN_PROBABILITIES",
        description="Return all labels of a text, not only the best one.",
    )
    return_raw_logits: bool = Field(
        False, validation_alias="RETURN_RAW_LOGITS", description="Return all labels with logits as scores."
    )
    text_embedding: bool = Field(
        False,
        validation_alias="TEXT_EMBEDDING",
        description="Use the normalized mean of the tokens if the model's files do not define an embedding.",
    )

    acceleration: bool = Field(
        True,
        validation_alias="ACCELERATION",
        description="On a CPU: own kernels, packed weights, batches without padding. On a GPU: CUDA graphs.",
    )
    calibration_seconds: float = Field(
        3.0,
        validation_alias="CALIBRATION_SECONDS",
        ge=0,
        le=600,
        description="Seconds that the first start of a model may spend to measure suitable batch sizes; 0 is off.",
    )
    max_batch_size: int | None = Field(
        None, validation_alias="MAX_BATCH_SIZE", ge=1, description="Most rows in a batch."
    )
    max_batch_tokens: int | None = Field(
        None, validation_alias="MAX_BATCH_TOKENS", ge=1, description="Most tokens in a batch, including padding."
    )
    kv_cache_memory: Memory | None = Field(
        None,
        validation_alias="KV_CACHE_MEMORY",
        ge=1,
        description="Size of the KV cache, such as 4GiB; a share of the free memory if unset.",
    )
    max_text_length: int = Field(
        1_000_000, validation_alias="MAX_TEXT_LENGTH", ge=1, description="Most characters in one instance."
    )
    max_rows_per_instance: int = Field(
        1024,
        validation_alias="MAX_ROWS_PER_INSTANCE",
        ge=1,
        description="Most windows of one text, sequences of one prompt, or masks of one text.",
    )
    max_answers_per_instance: int = Field(
        10_000, validation_alias="MAX_ANSWERS_PER_INSTANCE", ge=1, description="Most answers that top_k may ask for."
    )
    max_queue_size: int = Field(4096, validation_alias="MAX_QUEUE_SIZE", ge=1, description="Most waiting items.")
    max_queue_rows: int = Field(
        32_768, validation_alias="MAX_QUEUE_ROWS", ge=1, description="Most rows of all waiting items."
    )
    max_queue_tokens: int = Field(
        8 * 2**20, validation_alias="MAX_QUEUE_TOKENS", ge=1, description="Most tokens of all waiting rows."
    )

    log_level: str = Field("INFO", validation_alias="LOG_LEVEL", pattern=r"^(?i:debug|info|warning|error|critical)$")
    transformers_verbosity: Literal["detail", "debug", "info", "warning", "error", "critical"] = Field(
        "warning", validation_alias="TRANSFORMERS_VERBOSITY"
    )

    @field_validator("task", mode="before")
    @classmethod
    def _ignore_unknown_task(cls, value: Any, info: ValidationInfo) -> Any:
        """Return None for an unknown task if the model has its own code.

        A custom pipeline may do more than the known tasks.
        """
        own_code = info.data.get("trust_remote_code") or info.data.get("custom_pipeline")
        return None if own_code and value not in TASKS else value

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("LOAD_IN_8BIT and LOAD_IN_4BIT cannot both be true; choose one")
        if self.quantization and (self.load_in_8bit or self.load_in_4bit):
            raise ValueError(
                "QUANTIZATION (int8 on a CPU) cannot be combined with LOAD_IN_8BIT or LOAD_IN_4BIT (bitsandbytes); "
                "choose one"
            )
        if self.return_probabilities and self.return_raw_logits:
            raise ValueError("RETURN_PROBABILITIES and RETURN_RAW_LOGITS cannot both be true; choose one")
        if self.return_raw_logits and self.task not in (None, "text-classification"):
            raise ValueError("RETURN_RAW_LOGITS is for text-classification")
        return self

    @property
    def shown_uri(self) -> str:
        """STORAGE_URI for messages and logs, without the parts that may be secret."""
        return shown_uri(self.storage_uri)

    @property
    def truncates_texts(self) -> bool:
        """True if texts that are too long are truncated in tasks that do not generate."""
        return self.max_model_len is not None if self.truncation is None else self.truncation

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in a log."""
        named = [value for name, value in self.storage_options.items() if _SECRET_NAME.search(name)]
        values = [self.hf_token, *self.secret_environment.values(), *named]
        uri = urlsplit(self.storage_uri if self.storage_uri.startswith("http") else "")
        headers = [value for name, value in self.storage_options.items() if name.endswith("-headers")]
        return (
            *(value.get_secret_value() for value in values if value is not None),
            *(text for value in headers for text in _QUOTED.findall(value.get_secret_value())),
            *filter(None, (uri.password, uri.query)),
        )

    @property
    def explicit_max_length(self) -> int | None:
        """`max_length` if the operator set it, else None.

        The default of 20 means 20 new tokens, while an explicit value includes the prompt.
        """
        return self.max_length if "max_length" in self.model_fields_set else None

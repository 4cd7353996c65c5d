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

from hf_runtime.contract.parsers import ReasoningParser, ToolParser
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

    name: str = Field(
        "model",
        validation_alias="MODEL_NAME",
        min_length=1,
        pattern=r"^[^/:\s]+$",
        description="Name of the model in URLs.",
    )
    storage_uri: str = Field(
        validation_alias="STORAGE_URI",
        description="URI of the model, such as `hf://owner/model` or `s3://bucket/folder`.",
    )
    revision: str | None = Field(
        None,
        validation_alias="MODEL_REVISION",
        description="Branch, tag or commit of the model on the hub. If unset, the default branch.",
    )
    gguf_file: str | None = Field(
        None, validation_alias="GGUF_FILE", description="GGUF file to load if the model has several."
    )
    hf_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        description="Access token for private and gated models on the hub.",
    )
    cache_dir: Path | None = Field(
        None,
        validation_alias=AliasChoices("HF_HUB_CACHE", "TRANSFORMERS_CACHE"),
        description=(
            "Folder for downloads from the hub. If unset, the default folder of huggingface_hub, which `HF_HOME` "
            "changes."
        ),
    )
    hf_endpoint: str | None = Field(
        None, validation_alias="HF_ENDPOINT", description="URL of another hub. If unset, `https://huggingface.co`."
    )
    offline: bool = Field(
        False,
        validation_alias=AliasChoices("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
        description="Load models from the local caches and do not use the network.",
    )
    storage_cache: Path = Field(
        Path("~/.cache/hugging-face-runtime"),
        validation_alias="STORAGE_CACHE",
        description=(
            "Folder for models from other sources than the hub, for calibration results and for compiled kernels. "
            "Folders that the server creates in it belong to the server's user alone."
        ),
    )
    storage_cache_old_copies: int = Field(
        1,
        validation_alias="STORAGE_CACHE_OLD_COPIES",
        ge=0,
        description=(
            "Number of older versions of each model to keep in `STORAGE_CACHE`. A version that a process on this "
            "machine is serving is never deleted."
        ),
    )
    pvc_dir: Path = Field(
        Path("/mnt/pvc"),
        validation_alias="PVC_DIR",
        description="Folder where the volumes of `pvc://` URIs are mounted.",
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
        description="Storage URI of an adapter's base model. If unset, the adapter's config names the base model.",
    )
    trust_remote_code: bool = Field(
        False, validation_alias="TRUST_REMOTE_CODE", description="Run Python code that comes with the model."
    )
    custom_pipeline: str | None = Field(
        None,
        validation_alias="CUSTOM_PIPELINE",
        description=(
            "File in the model's folder that defines `create_pipeline()`. If unset, `custom_pipeline.py` if "
            "`TRUST_REMOTE_CODE` is true."
        ),
    )
    # Declared after the fields above: its validator needs them to accept tasks that only the model's own code knows.
    task: Task | None = Field(
        None, validation_alias="TASK", description="Task of the model. If unset, the model's `config.json` decides."
    )
    requested_task: str | None = Field(
        None, validation_alias=AliasChoices("TASK"), description="TASK exactly as given."
    )

    torch_dtype: TorchDtype | None = Field(
        None,
        validation_alias="TORCH_DTYPE",
        description=(
            "Data type of the weights. `auto` is the checkpoint's own type. If unset, float32 on a CPU and the "
            "checkpoint's own type on a GPU."
        ),
    )
    attn_implementation: str | None = Field(
        None,
        validation_alias="ATTN_IMPLEMENTATION",
        pattern=r"^[\w./-]+$",
        description=(
            "Attention implementation of transformers, such as `eager`, `sdpa` or `flash_attention_2`. It has no "
            "effect on models that generate with continuous batching. If unset, the server chooses."
        ),
    )
    device_map: str | None = Field(
        None,
        validation_alias="DEVICE_MAP",
        description=(
            "`auto` distributes one model over all GPUs and the CPU, with accelerate. If unset, the model is on the "
            "first GPU, or on the CPU if there is no GPU."
        ),
    )
    load_in_8bit: bool = Field(
        False,
        validation_alias="LOAD_IN_8BIT",
        description="Quantize the weights to 8 bits with bitsandbytes while the model is loaded.",
    )
    load_in_4bit: bool = Field(
        False,
        validation_alias="LOAD_IN_4BIT",
        description="Quantize the weights to 4 bits with bitsandbytes while the model is loaded.",
    )
    quantization: Literal["int8"] | None = Field(
        None,
        validation_alias="QUANTIZATION",
        description=(
            "`int8` computes linear layers in int8, which needs a CPU with VNNI. The head of a classifier keeps its "
            "precision. If unset, layers are not quantized."
        ),
    )
    cuda_memory_fraction: float | None = Field(
        None,
        validation_alias="TORCH_CUDA_MEMORY_FRACTION",
        gt=0,
        le=1,
        description="Maximum share of a GPU's memory that a runner may use. If unset, all of it.",
    )
    cuda_visible_devices: str | None = Field(
        None,
        validation_alias="CUDA_VISIBLE_DEVICES",
        description=(
            "GPUs that a runner can see, such as `0,1`. It replaces the choice that BentoML makes for `GPUS`. If "
            "unset, all GPUs."
        ),
    )
    gpus: float = Field(
        0,
        validation_alias="GPUS",
        ge=0,
        description=(
            "Number of GPUs that BentoML reserves for each runner. With a fraction, several runners share one GPU."
        ),
    )
    cpus: float | None = Field(
        None,
        validation_alias="CPUS",
        gt=0,
        description="Number of CPU cores that each runner may use. If unset, all cores.",
    )
    memory_limit: Memory | None = Field(
        None,
        validation_alias="MEMORY_LIMIT",
        ge=1,
        description="Maximum memory of each runner. If unset, all memory of the machine.",
    )
    replicas: int = Field(
        1,
        validation_alias="REPLICAS",
        ge=1,
        description="Number of runners of the model. Each has its own copy of the model and its own GPUs.",
    )
    torch_threads: int | None = Field(
        None,
        validation_alias="TORCH_NUM_THREADS",
        ge=1,
        description="Number of CPU threads of each runner. If unset, as many as `CPUS` and the container allow.",
    )

    max_new_tokens: int | None = Field(
        None,
        validation_alias="MAX_NEW_TOKENS",
        ge=1,
        description="Maximum number of new tokens that a request may ask for. If unset, there is no limit.",
    )
    max_length: int = Field(
        20,
        validation_alias="MAX_LENGTH",
        ge=1,
        description=(
            "Maximum length of a sequence in tokens. For text-generation, this includes the prompt. If unset, the "
            "limit is 20 new tokens, without the prompt."
        ),
    )
    temperature: float = Field(
        1.0,
        validation_alias="TEMPERATURE",
        ge=0,
        allow_inf_nan=False,
        description="Sampling temperature. 0 is greedy decoding.",
    )
    do_sample: bool = Field(
        False, validation_alias="DO_SAMPLE", description="Sample the next token. If false, decoding is greedy."
    )
    top_k: int = Field(
        50, validation_alias="TOP_K", ge=0, description="Sample only from the `k` most likely tokens. 0 turns this off."
    )
    top_p: float = Field(
        1.0,
        validation_alias="TOP_P",
        gt=0,
        le=1,
        description="Sample only from the most likely tokens whose probabilities add up to `p`.",
    )
    return_full_text: bool = Field(
        True,
        validation_alias="RETURN_FULL_TEXT",
        description="Return the prompt and the generated text. If false, return only the generated text.",
    )
    reasoning_parser: ReasoningParser | None = Field(
        None,
        validation_alias="REASONING_PARSER",
        description=(
            "Parser that separates reasoning from content in answers to chats, by vLLM's name. `none` leaves reasoning "
            "in the content. If unset, the chat template decides."
        ),
    )
    tool_parser: ToolParser | None = Field(
        None,
        validation_alias="TOOL_PARSER",
        description=(
            "Notation in which the model writes tool calls, by vLLM's name of its parser. If unset, the chat template "
            "decides."
        ),
    )
    aggregation_strategy: AggregationStrategy = Field(
        "none",
        validation_alias="AGGREGATION_STRATEGY",
        description="Method by which token-classification joins tokens into entities.",
    )
    pooling: Pooling | None = Field(
        None,
        validation_alias="POOLING",
        description=(
            "Method that combines the token vectors of an input into one embedding. If unset, the model's "
            "sentence-transformers files decide."
        ),
    )
    normalize: bool | None = Field(
        None,
        validation_alias="NORMALIZE",
        description="Scale embeddings to length 1. If unset, the model's sentence-transformers files decide.",
    )
    matryoshka: bool | None = Field(
        None,
        validation_alias="MATRYOSHKA",
        description=(
            "Allow clients to request embeddings with fewer dimensions, if the model was trained for it. If unset, the "
            "model's config decides."
        ),
    )
    max_model_len: int | None = Field(
        None,
        validation_alias="MAX_MODEL_LEN",
        ge=1,
        description=(
            "Maximum length of an input in tokens. It may exceed the tokenizer's limit if the model has no position "
            "limit, but never the model's own limit. If you set it, tasks that do not generate truncate longer inputs. "
            "If unset, the model's own limit."
        ),
    )
    truncation: bool | None = Field(
        None,
        validation_alias="TRUNCATION",
        description=(
            "Truncate inputs that are longer than the model's limit. If unset, true if `MAX_MODEL_LEN` is set and the "
            "task does not generate."
        ),
    )
    return_probabilities: bool = Field(
        False,
        validation_alias="RETURN_PROBABILITIES",
        description="Return all labels with their probabilities in text-classification.",
    )
    return_raw_logits: bool = Field(
        False,
        validation_alias="RETURN_RAW_LOGITS",
        description="Return all labels with logits as scores in text-classification.",
    )
    text_embedding: bool = Field(
        False,
        validation_alias="TEXT_EMBEDDING",
        description="Return the normalized mean of the token vectors if the model's files do not define an embedding.",
    )

    acceleration: bool = Field(
        True,
        validation_alias="ACCELERATION",
        description=(
            "Optimize the model. On a CPU: compiled kernels, packed weights and batches without padding. On a GPU: "
            "CUDA graphs."
        ),
    )
    calibration_seconds: float = Field(
        3.0,
        validation_alias="CALIBRATION_SECONDS",
        ge=0,
        le=600,
        description=(
            "Maximum time in seconds that the first start of a model spends on measuring batch sizes. 0 turns the "
            "measurement off."
        ),
    )
    max_batch_size: int | None = Field(
        None,
        validation_alias="MAX_BATCH_SIZE",
        ge=1,
        description=(
            "Maximum number of rows in one forward pass. For generation, sequences that run at the same time. If "
            "unset, the server measures the best value."
        ),
    )
    max_batch_tokens: int | None = Field(
        None,
        validation_alias="MAX_BATCH_TOKENS",
        ge=1,
        description=(
            "Maximum number of tokens in one forward pass, including padding. For generation, tokens in one step. If "
            "unset, the server measures the best value."
        ),
    )
    kv_cache_memory: Memory | None = Field(
        None,
        validation_alias="KV_CACHE_MEMORY",
        ge=1,
        description=(
            "Memory for the KV cache, which stores the keys and values of sequences. If unset, a quarter of the free "
            "memory, or 85 % of it on a GPU."
        ),
    )
    max_text_length: int = Field(
        1_000_000, validation_alias="MAX_TEXT_LENGTH", ge=1, description="Maximum number of characters in one instance."
    )
    max_rows_per_instance: int = Field(
        1024,
        validation_alias="MAX_ROWS_PER_INSTANCE",
        ge=1,
        description="Maximum number of windows of one text, sequences of one prompt, or masks of one text.",
    )
    max_answers_per_instance: int = Field(
        10_000,
        validation_alias="MAX_ANSWERS_PER_INSTANCE",
        ge=1,
        description=(
            "Maximum number of answers that `top_k` may request for one question, or for all masks of one text "
            "together."
        ),
    )
    max_queue_size: int = Field(
        4096,
        validation_alias="MAX_QUEUE_SIZE",
        ge=1,
        description="Maximum number of instances that wait for one model.",
    )
    max_queue_rows: int = Field(
        32_768,
        validation_alias="MAX_QUEUE_ROWS",
        ge=1,
        description="Maximum number of rows of all waiting instances together.",
    )
    max_queue_tokens: int = Field(
        8 * 2**20,
        validation_alias="MAX_QUEUE_TOKENS",
        ge=1,
        description=(
            "Maximum number of tokens of all waiting instances together. Before an input is tokenized, four characters "
            "count as one token."
        ),
    )

    log_level: str = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        pattern=r"^(?i:debug|info|warning|error|critical)$",
        description="Least severe level that is logged. `DEBUG` reports how each batch was formed.",
    )
    transformers_verbosity: Literal["detail", "debug", "info", "warning", "error", "critical"] = Field(
        "warning", validation_alias="TRANSFORMERS_VERBOSITY", description="Log level of transformers."
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
    def truncates_inputs(self) -> bool:
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

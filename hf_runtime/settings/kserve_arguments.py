"""Translation of KServe's huggingfaceserver arguments to settings of this server.

Source: huggingfaceserver/__main__.py and kserve/model_server.py of KServe 0.21.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from hf_runtime.contract.tasks import TASKS

#: KServe's names of tasks.
_TASKS: Mapping[str, str] = {name: spec.name for spec in TASKS.values() for name in spec.kserve_names}
_DTYPES = {"half": "float16", "float": "float32"}
_DEFAULT_FOLDER = "/mnt/models"


def _hub_model(value: str) -> dict[str, str]:
    return {"STORAGE_URI": f"hf://{value}"}


def _task(value: str) -> dict[str, str]:
    name = value.lower().replace("_", "-")
    task = _TASKS.get(name, name)
    return {"TASK": task, **({"TEXT_EMBEDDING": "true"} if name == "text-embedding" else {})}


def _backend(value: str) -> dict[str, str]:
    if value not in ("auto", "huggingface"):
        raise ValueError(f"--backend={value} is not part of this server; leave it out, or say huggingface")
    return {}


def _variable(variable: str) -> Callable[[str], dict[str, str]]:
    return lambda value: {variable: value}


#: Arguments that need a value.
_ARGUMENTS: Mapping[str, Callable[[str], dict[str, str]]] = {
    "backend": _backend,
    "dtype": lambda value: {"TORCH_DTYPE": _DTYPES.get(value, value)},
    "max_length": _variable("MAX_MODEL_LEN"),
    "max_model_len": _variable("MAX_MODEL_LEN"),
    "model_dir": _variable("STORAGE_URI"),
    "model_id": _hub_model,
    "model_name": _variable("MODEL_NAME"),
    "model_revision": _variable("MODEL_REVISION"),
    "task": _task,
    # Arguments of vLLM with the same meaning here.
    "gpu_memory_utilization": _variable("TORCH_CUDA_MEMORY_FRACTION"),
    "max_num_batched_tokens": _variable("MAX_BATCH_TOKENS"),
    "max_num_seqs": _variable("MAX_BATCH_SIZE"),
    "reasoning_parser": _variable("REASONING_PARSER"),
    "revision": _variable("MODEL_REVISION"),
    "served_model_name": _variable("MODEL_NAME"),
    "tool_call_parser": _variable("TOOL_PARSER"),
}

#: Arguments without a value. An empty mapping means that the server does this anyway: it follows the tokenizer's case
#: and token types, returns offsets, lets models choose tools, and does not log prompts by default.
_FLAGS: Mapping[str, dict[str, str]] = {
    "disable_log_requests": {},
    "disable_lower_case": {},
    "enable_auto_tool_choice": {},
    "return_offsets_mapping": {},
    "return_probabilities": {"RETURN_PROBABILITIES": "true"},
    "return_raw_logits": {"RETURN_RAW_LOGITS": "true"},
    "return_token_type_ids": {},
    "trust_remote_code": {"TRUST_REMOTE_CODE": "true"},
}

#: Arguments that are refused, with what to use instead.
_INSTEAD: Mapping[str, str] = {
    "disable_special_tokens": "the tokenizer's special tokens are always there",
    "enable_grpc": "there is no gRPC",
    "grpc_port": "there is no gRPC",
    "http_port": "the port is that of `bentoml serve --port`",
    "tensor_input_names": "the model's own inputs are used",
    "tokenizer_revision": "model and tokenizer are of one revision, --model_revision",
    "workers": "processes of the API are API_WORKERS, copies of the model minReplicas",
}


class ArgumentError(ValueError):
    """An argument is not accepted.

    Attributes:
        index: its position in the list of arguments.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


def parse_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Return the environment variables that correspond to `arguments`.

    An argument has the form `--name=value`, or `--name` followed by `value`.

    Raises:
        ArgumentError: one is not supported, or lacks its value; the message names it.
    """
    variables: dict[str, str] = {}
    numbered = list(enumerate(arguments))
    while numbered:
        index, given = numbered.pop(0)
        following = numbered[0][1] if numbered and not numbered[0][1].startswith("--") else None
        try:
            parsed, used_following = _parse_argument(given, following)
        except ValueError as error:
            raise ArgumentError(str(error), index) from None
        variables |= parsed
        if used_following:
            numbered.pop(0)
    return variables


def _parse_argument(given: str, following: str | None) -> tuple[dict[str, str], bool]:
    """Return the variables of one argument, and whether the following argument was its value."""
    match = re.fullmatch(r"--(?P<name>[\w-]+)(=(?P<value>.*))?", given, re.DOTALL)
    if match is None:
        raise ValueError(f"{given!r} is not of the form --name=value")
    name, value = match["name"].replace("-", "_"), match["value"]
    if name in _FLAGS:
        return _parse_flag(name, value), False
    if name not in _ARGUMENTS:
        raise ValueError(f"--{name} is not supported{f': {_INSTEAD[name]}' if name in _INSTEAD else ''}")
    if value is not None:
        return _ARGUMENTS[name](value), False
    if following is None:
        raise ValueError(f"--{name} has no value")
    return _ARGUMENTS[name](following), True


def _parse_flag(name: str, value: str | None) -> dict[str, str]:
    match (value or "true").lower():
        case "true":
            return _FLAGS[name]
        case "false":
            return {}
        case _:
            raise ValueError(f"--{name} takes no value")


def is_default_folder(variables: Mapping[str, str]) -> bool:
    """Return whether STORAGE_URI is only the folder to which KServe downloads `storageUri`."""
    return variables.get("STORAGE_URI", "").rstrip("/") == _DEFAULT_FOLDER

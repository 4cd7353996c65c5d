"""Promise: supported arguments of huggingfaceserver are accepted, others refused by name."""

from __future__ import annotations

import pytest

from hf_runtime.settings.kserve_arguments import parse_arguments


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--model_name=x"], {"MODEL_NAME": "x"}),
        (["--model_name", "x"], {"MODEL_NAME": "x"}),
        (["--model-id=owner/model"], {"STORAGE_URI": "hf://owner/model"}),
        (["--task=sequence_classification"], {"TASK": "text-classification"}),
        (["--task=text_generation"], {"TASK": "text-generation"}),
        (["--task=text-generation"], {"TASK": "text-generation"}),
        (["--task=text_embedding"], {"TASK": "feature-extraction", "TEXT_EMBEDDING": "true"}),
        (["--dtype=float"], {"TORCH_DTYPE": "float32"}),
        (["--dtype=bfloat16"], {"TORCH_DTYPE": "bfloat16"}),
        (["--max_length=128"], {"MAX_MODEL_LEN": "128"}),
        (["--return_probabilities"], {"RETURN_PROBABILITIES": "true"}),
        (["--trust_remote_code", "--disable_lower_case"], {"TRUST_REMOTE_CODE": "true"}),
        (["--trust_remote_code=false"], {}),
        (["--backend=huggingface"], {}),
    ],
)
def test_supported_arguments_are_settings(arguments: list[str], variables: dict[str, str]) -> None:
    assert parse_arguments(arguments) == variables


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--http_port=8080"], r"--http_port is not supported: the port is that of `bentoml serve --port`"),
        (["--tensor-parallel-size=2"], "--tensor_parallel_size is not supported"),
        (["--backend=vllm"], "--backend=vllm is not part of this server"),
        (["--model_name"], "--model_name has no value"),
        (["--model_name", "--task=x"], "--model_name has no value"),
        (["--return_probabilities=maybe"], "--return_probabilities takes no value"),
        (["model"], "'model' is not of the form --name=value"),
    ],
)
def test_other_arguments_are_refused_by_name(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_arguments(arguments)

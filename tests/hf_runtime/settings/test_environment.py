"""Promise: the seed's variables and defaults hold, and a wrong value gives one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_runtime.settings import ModelSettings, SettingsError, load_settings


def _model(monkeypatch: pytest.MonkeyPatch, **environment: str) -> ModelSettings:
    for name, value in {"STORAGE_URI": "hf://gpt2", **environment}.items():
        monkeypatch.setenv(name, value)
    (model,) = load_settings().models
    return model


def test_defaults_are_those_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(monkeypatch)
    assert (model.name, model.task, model.max_length, model.temperature) == ("model", None, 20, 1.0)
    assert (model.do_sample, model.top_k, model.top_p, model.hf_token) == (False, 50, 1.0, None)
    assert (model.return_full_text, model.trust_remote_code) == (True, False)
    assert model.explicit_max_length is None, "the default of 20 means new tokens, a set MAX_LENGTH counts the prompt"


def test_every_variable_of_the_seed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(
        monkeypatch,
        TASK="text-generation", MAX_LENGTH="100", TEMPERATURE="0.7", DO_SAMPLE="true", TOP_K="5", TOP_P="0.9",
        HF_TOKEN="hf_secret", RETURN_FULL_TEXT="false", AGGREGATION_STRATEGY="simple", TORCH_DTYPE="float16",
        DEVICE_MAP="auto", MODEL_REVISION="main", TRUST_REMOTE_CODE="true", TORCH_CUDA_MEMORY_FRACTION="0.8",
        TRANSFORMERS_CACHE="/tmp/transformers_cache", LOAD_IN_8BIT="true", LOAD_IN_4BIT="false", LOG_LEVEL="DEBUG",
        TRANSFORMERS_VERBOSITY="debug", CUDA_VISIBLE_DEVICES="0",
    )  # fmt: skip
    assert (model.task, model.explicit_max_length, model.temperature) == ("text-generation", 100, 0.7)
    assert (model.do_sample, model.top_k, model.top_p) == (True, 5, 0.9)
    assert model.hf_token is not None
    assert model.hf_token.get_secret_value() == "hf_secret"
    assert "hf_secret" not in repr(model)
    assert (model.return_full_text, model.aggregation_strategy) == (False, "simple")
    assert (model.torch_dtype, model.device_map, model.revision) == ("float16", "auto", "main")
    assert (model.trust_remote_code, model.cuda_memory_fraction) == (True, 0.8)
    assert model.cache_dir == Path("/tmp/transformers_cache")
    assert (model.load_in_8bit, model.load_in_4bit) == (True, False)
    assert (model.log_level, model.transformers_verbosity, model.cuda_visible_devices) == ("DEBUG", "debug", "0")


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _model(monkeypatch, TASK="", MAX_LENGTH="", HF_TOKEN="").explicit_max_length is None


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"TASK": "translation"}, "TASK: Input should be 'feature-extraction', "),
        ({"LOAD_IN_8BIT": "true", "LOAD_IN_4BIT": "true"}, "LOAD_IN_8BIT and LOAD_IN_4BIT cannot both be true"),
        ({"TEMPERATURE": "-1"}, "TEMPERATURE: "),
        ({"MAX_LENGTH": "0"}, "MAX_LENGTH: "),
        ({"TOP_P": "1.5"}, "TOP_P: "),
        ({"TORCH_DTYPE": "float8"}, "TORCH_DTYPE: "),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: "),
        ({"MODEL_NAME": "a/b"}, "MODEL_NAME: "),
        ({"RETURN_PROBABILITIES": "true", "RETURN_RAW_LOGITS": "true"}, "RETURN_PROBABILITIES and RETURN_RAW_LOGITS"),
        ({"RETURN_RAW_LOGITS": "true", "TASK": "fill-mask"}, "RETURN_RAW_LOGITS is for text-classification"),
        ({"REPLICAS": "0"}, "REPLICAS: "),
        ({"MEMORY_LIMIT": "much"}, "MEMORY_LIMIT: "),
        ({"RUNNER_KEY": "two words"}, "RUNNER_KEY: must be one word"),
        ({"RUNNER_KEY": "schlüssel"}, "RUNNER_KEY: must be one word"),
        ({"RUNNER_KEY": " "}, "RUNNER_KEY: must be one word"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError) as error:
        _model(monkeypatch, **environment)
    assert str(error.value).startswith(named)
    assert "\n" not in str(error.value)


def test_a_wrong_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as error:
        _model(monkeypatch, RUNNER_KEY="two words")
    assert "two words" not in str(error.value)


def test_a_bento_can_be_built_without_a_configured_model() -> None:
    assert load_settings().models == ()


@pytest.mark.parametrize("name", ["NAME", "REVISION", "ENVIRONMENT", "STORAGE_OPTIONS", "TASK_NAME"])
def test_variables_named_like_a_field_have_no_effect(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert _model(monkeypatch, **{name: "workstation"}) == _model(monkeypatch)


def test_memory_accepts_kubernetes_units_and_full_units(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _model(monkeypatch, MEMORY_LIMIT="4Gi").memory_limit == 4 * 2**30
    assert _model(monkeypatch, KV_CACHE_MEMORY="512MiB").kv_cache_memory == 512 * 2**20


def test_variables_of_object_stores_stay_unchanged_and_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"weights.example-headers": '{"Authorization": "Bearer hidden"}'}
    model = _model(monkeypatch, AWS_SECRET_ACCESS_KEY="hidden", awsAnonymousCredential="true", PATHS="x", **headers)
    assert set(model.storage_options) >= {"AWS_SECRET_ACCESS_KEY", "awsAnonymousCredential", "weights.example-headers"}
    assert "PATHS" not in model.storage_options
    assert "hidden" not in repr(model)


def test_an_unknown_task_is_accepted_for_models_with_remote_code(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(monkeypatch, TASK="image-classification", TRUST_REMOTE_CODE="true")
    assert (model.task, model.requested_task) == (None, "image-classification")


def test_inputs_are_truncated_if_a_setting_limits_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _model(monkeypatch).truncates_inputs
    assert _model(monkeypatch, MAX_MODEL_LEN="128").truncates_inputs
    assert not _model(monkeypatch, MAX_MODEL_LEN="128", TRUNCATION="false").truncates_inputs


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/t", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://d"}, "http://c/t"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None),
    ],
)
def test_traces_are_sent_if_opentelemetrys_variables_enable_them(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str | None
) -> None:
    for name, value in {"STORAGE_URI": "hf://gpt2", **environment}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.server.traces_url == url
    assert settings.notes == (
        ("OTEL_TRACES_EXPORTER=console: only otlp is here",) if "console" in environment.values() else ()
    )


def test_an_unsupported_protocol_of_traces_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_URI", "hf://gpt2")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    (note,) = load_settings().notes
    assert note == "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: traces are sent as http/protobuf, to http://c:4317/v1/traces"

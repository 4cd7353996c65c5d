"""Promises of the settings: the seed's variables and defaults, and one readable line for a wrong value."""

from __future__ import annotations

from pathlib import Path

import pytest

from settings import ModelSettings, SettingsError, load_settings

VARIABLES = {
    "MODEL_NAME", "STORAGE_URI", "TASK", "MODEL_REVISION", "GGUF_FILE", "HF_TOKEN", "HF_HUB_CACHE",
    "TRANSFORMERS_CACHE", "TRUST_REMOTE_CODE", "TORCH_DTYPE", "DEVICE_MAP", "LOAD_IN_8BIT", "LOAD_IN_4BIT",
    "TORCH_CUDA_MEMORY_FRACTION", "CUDA_VISIBLE_DEVICES", "GPUS", "MAX_LENGTH", "TEMPERATURE", "DO_SAMPLE", "TOP_K",
    "TOP_P", "RETURN_FULL_TEXT", "AGGREGATION_STRATEGY", "POOLING", "NORMALIZE", "TRUNCATION", "RUNTIME_CONFIG",
    "LOG_LEVEL", "TRANSFORMERS_VERBOSITY", "MAX_BATCH_SIZE",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


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


def test_a_variable_set_to_nothing_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _model(monkeypatch, TASK="", MAX_LENGTH="", HF_TOKEN="").explicit_max_length is None


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"TASK": "translation"}, "TASK: Input should be 'text-classification', "),
        ({"LOAD_IN_8BIT": "true", "LOAD_IN_4BIT": "true"}, "LOAD_IN_8BIT and LOAD_IN_4BIT cannot both be true"),
        ({"TEMPERATURE": "-1"}, "TEMPERATURE: "),
        ({"MAX_LENGTH": "0"}, "MAX_LENGTH: "),
        ({"TOP_P": "1.5"}, "TOP_P: "),
        ({"TORCH_DTYPE": "float8"}, "TORCH_DTYPE: "),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: "),
        ({"MODEL_NAME": "a/b"}, "MODEL_NAME: "),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError) as error:
        _model(monkeypatch, **environment)
    assert str(error.value).startswith(named)
    assert "\n" not in str(error.value)


def test_no_model_configured_is_no_error_yet_so_that_a_bento_can_be_built() -> None:
    assert load_settings().models == ()


def _config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return str(path)


DOCUMENT = """
apiVersion: "serving.kserve.io/v1beta1"
kind: "InferenceService"
metadata: {{name: "{name}"}}
spec:
  predictor:
    huggingface:
      storageUri: "hf://gpt2"
      env:
      - {{name: TASK, value: "text-generation"}}
      - {{name: MAX_LENGTH, value: "100"}}
"""


def test_inference_services_name_models_and_their_env_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = DOCUMENT.format(name="a") + "---" + DOCUMENT.format(name="b")
    monkeypatch.setenv("RUNTIME_CONFIG", _config(tmp_path, text))
    monkeypatch.setenv("MAX_LENGTH", "7")
    monkeypatch.setenv("TOP_K", "3")
    models = load_settings().models
    assert [(model.name, model.explicit_max_length, model.top_k) for model in models] == [("a", 100, 3), ("b", 100, 3)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kind: [", "is not valid YAML"),
        ("", "holds no InferenceService"),
        (DOCUMENT.format(name="a") + "---" + DOCUMENT.format(name="a"), "two models share a name"),
        (DOCUMENT.format(name="a").replace("storageUri", "storageURL"), "document 1: spec.predictor.huggingface"),
        (DOCUMENT.format(name="a").replace("text-generation", "text"), "document 1: TASK"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_file_and_field(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, named: str
) -> None:
    path = _config(tmp_path, text)
    monkeypatch.setenv("RUNTIME_CONFIG", path)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert str(error.value).startswith(path)
    assert named in str(error.value)
    assert "\n" not in str(error.value)

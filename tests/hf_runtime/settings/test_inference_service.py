"""Promise: KServe's own InferenceServices are accepted, and a mistake names its line."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from hf_runtime.settings import ModelSettings, Settings, SettingsError, load_settings
from tests.project import ROOT

DOCUMENT = """
apiVersion: "serving.kserve.io/v1beta1"
kind: "InferenceService"
metadata: {name: "a"}
spec:
  predictor:
    huggingface:
      storageUri: "hf://gpt2"
      env:
      - {name: TASK, value: "text-generation"}
      - {name: MAX_LENGTH, value: "100"}
"""

MODEL = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: newer
  namespace: models
  annotations: {serving.kserve.io/deploymentMode: Standard}
spec:
  predictor:
    minReplicas: 2
    model:
      modelFormat:
        name: huggingface
      args:
        - --model_name=llama
        - --model_id=meta-llama/Llama-3.2-1B
        - --model-revision
        - main
        - --dtype=half
        - --trust_remote_code
      resources:
        requests: {cpu: "1", memory: 2Gi}
        limits: {cpu: 1500m, memory: 8Gi, nvidia.com/gpu: "2"}
"""


def _load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return load_settings(path)


def _one(tmp_path: Path, text: str) -> ModelSettings:
    (model,) = _load(tmp_path, text).models
    return model


def _with_env(entry: str) -> str:
    return f"{DOCUMENT}      - {entry}\n"


def _with_predictor(line: str) -> str:
    return DOCUMENT.replace("  predictor:\n", f"  predictor:\n    {line}\n")


def _with_container(line: str) -> str:
    return f"{DOCUMENT}      {line}\n"


def test_env_of_a_document_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAX_LENGTH", "7")
    monkeypatch.setenv("TOP_K", "3")
    model = _one(tmp_path, DOCUMENT)
    assert (model.name, model.storage_uri, model.task) == ("a", "hf://gpt2", "text-generation")
    assert (model.explicit_max_length, model.top_k) == (100, 3)


def test_a_variable_under_its_second_name_wins_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "of-the-environment")
    model = _one(tmp_path, _with_env("{name: HUGGING_FACE_HUB_TOKEN, value: of-the-document}"))
    assert model.hf_token is not None
    assert model.hf_token.get_secret_value() == "of-the-document"


def test_the_newer_form_with_arguments_and_resources(tmp_path: Path) -> None:
    model = _one(tmp_path, MODEL)
    assert (model.name, model.storage_uri, model.revision) == ("llama", "hf://meta-llama/Llama-3.2-1B", "main")
    assert (model.torch_dtype, model.trust_remote_code) == ("float16", True)
    assert (model.gpus, model.cpus, model.memory_limit, model.replicas) == (2, 1.5, 8 * 2**30, 2)


def test_zero_minimum_replicas_mean_one_here(tmp_path: Path) -> None:
    assert _one(tmp_path, _with_predictor("minReplicas: 0")).replicas == 1


def test_storage_uri_and_kserves_folder_for_it_are_one_model(tmp_path: Path) -> None:
    model = _one(tmp_path, _with_container("args: [--model_dir=/mnt/models, --max_length=128]"))
    assert (model.storage_uri, model.max_model_len) == ("hf://gpt2", 128)


def test_a_file_and_a_folder_hold_several_models(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.yaml").write_text(DOCUMENT + "---" + DOCUMENT.replace('"a"', '"b"'))
    (tmp_path / "folder" / "2.yml").write_text(MODEL)
    (tmp_path / "folder" / "README.md").write_text("no configuration")
    assert [model.name for model in load_settings(tmp_path / "folder").models] == ["a", "b", "llama"]


def test_runtime_config_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(DOCUMENT)
    monkeypatch.setenv("RUNTIME_CONFIG", str(path))
    assert [model.name for model in load_settings().models] == ["a"]


REFERENCE = "{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf-secret, key: token}}}"


def _token(model: ModelSettings) -> str | None:
    return model.hf_token.get_secret_value() if model.hf_token else None


def test_a_secret_is_a_mounted_file_or_a_document_or_the_variable_in_this_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "secrets"))
    monkeypatch.setenv("HF_TOKEN", "of-the-environment")
    text = _with_env(REFERENCE)
    assert _token(_one(tmp_path, text)) == "of-the-environment"
    encoded = base64.b64encode(b"of-the-document").decode()
    text += f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: hf-secret}}\ndata: {{token: {encoded}}}\n"
    assert _token(_one(tmp_path, text)) == "of-the-document"
    (tmp_path / "secrets" / "hf-secret").mkdir(parents=True)
    (tmp_path / "secrets" / "hf-secret" / "token").write_text("of-the-file\n")
    model = _one(tmp_path, text)
    assert _token(model) == "of-the-file"
    assert "of-the-file" not in repr(model)


def test_a_missing_secret_is_an_error_that_lists_the_searched_locations_unless_optional(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        _load(tmp_path, _with_env(REFERENCE))
    assert "line 12: HF_TOKEN: Secret hf-secret has no key token here" in str(error.value)
    assert "/run/secrets/hf-secret/token" in str(error.value)
    optional = REFERENCE.replace("key: token", "key: token, optional: true")
    assert _one(tmp_path, _with_env(optional)).hf_token is None


def test_other_variables_reach_the_models_process_and_secret_ones_stay_hidden(tmp_path: Path) -> None:
    text = _with_env('{name: TORCH_CUDA_ARCH_LIST, value: "7.0;8.0"}')
    text += "      - {name: PASSPHRASE, valueFrom: {secretKeyRef: {name: s, key: k}}}\n"
    text += "---\nkind: Secret\nmetadata: {name: s}\nstringData: {k: hidden}\n"
    model = _one(tmp_path, text)
    assert model.environment == {"TORCH_CUDA_ARCH_LIST": "7.0;8.0"}
    assert model.secret_environment["PASSPHRASE"].get_secret_value() == "hidden"
    assert "hidden" not in repr(model)


def test_fields_for_kubernetes_only_and_misspelt_settings_are_reported(tmp_path: Path) -> None:
    text = _with_predictor("maxReplicas: 3") + "      - {name: MAX_LENGHT, value: '5'}\n"
    text += "---\nkind: ServingRuntime\n"
    settings = _load(tmp_path, text)
    assert len(settings.models) == 1
    assert [note.split("models.yaml, ")[1] for note in settings.notes] == [
        "line 15: a document of the kind ServingRuntime is not used",
        "line 7: maxReplicas is for Kubernetes and has no effect here",
        "line 13: MAX_LENGHT is not a setting of this server; did you mean MAX_LENGTH?",
    ]


def test_a_document_may_hold_settings_of_the_whole_server_if_documents_agree(tmp_path: Path) -> None:
    first = _with_env('{name: REQUEST_TIMEOUT, value: "5"}')
    assert _load(tmp_path, first).server.request_timeout == 5
    second = first.replace('"a"', '"b"').replace('"5"', '"6"')
    with pytest.raises(SettingsError, match="line 24: REQUEST_TIMEOUT applies to the whole server"):
        _load(tmp_path, first + "---" + second)


def test_each_model_has_its_own_log_level(tmp_path: Path) -> None:
    loud = _with_env('{name: LOG_LEVEL, value: "DEBUG"}')
    assert _load(tmp_path, loud).server.log_level == "DEBUG"
    both = _load(tmp_path, loud + "---" + DOCUMENT.replace('"a"', '"b"'))
    assert [model.log_level for model in both.models] == ["DEBUG", "INFO"]
    assert both.server.log_level == "INFO"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kind: [", "line 1: not valid YAML"),
        ("", "holds no InferenceService"),
        ("- a", "line 1: Input should be"),
        (DOCUMENT + "---" + DOCUMENT, "line 15: two models are named a"),
        (DOCUMENT.replace("storageUri", "storageURL"), "line 8: spec.predictor.huggingface.storageURL: is not"),
        (DOCUMENT.replace('      storageUri: "hf://gpt2"\n', ""), "line 7: spec.predictor.huggingface.storageUri: is"),
        (DOCUMENT.replace('"text-generation"', '"text"'), "line 10: TASK: Input should be"),
        (DOCUMENT.replace('"100"', "100"), "line 11: spec.predictor.huggingface.env[1].value: must be a string"),
        (DOCUMENT.replace("huggingface:", "sklearn:"), "line 7: spec.predictor.sklearn: is not supported here"),
        (MODEL.replace("name: huggingface", "name: sklearn"), "spec.predictor.model.modelFormat.name: Input should"),
        (MODEL.replace("1500m", "fast"), "resources.limits.cpu: must be a quantity"),
        (MODEL.replace("--dtype=half", "--quantization=awq"), "line 19: args: --quantization is not supported"),
        (_with_container("envFrom: []"), "line 12: spec.predictor.huggingface.envFrom: is not supported here"),
        (_with_container("args: [--task=fill_mask]"), "line 12: TASK has two different values"),
        (_with_container("args: [--model_id=gpt2-large]"), "line 12: STORAGE_URI has two different values"),
        (DOCUMENT.replace("spec:", "spec:\n  transformer: {}"), "line 6: spec.transformer: is not supported here"),
        (DOCUMENT + "kind: InferenceService\n", "line 12: kind is defined twice"),
        (DOCUMENT.replace("v1beta1", "v1alpha1"), "line 2: apiVersion: Input should be"),
    ],
)
def test_a_mistake_is_one_line_with_file_line_and_field(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError) as error:
        _load(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path}/models.yaml")
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_every_file_in_configs_is_accepted_without_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    for path in (ROOT / "configs").glob("*.yaml"):
        settings = load_settings(path)
        assert settings.models, path
        assert settings.notes == (), path

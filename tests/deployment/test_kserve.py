"""Promise: KServe accepts the runtime and InferenceServices, whose fields reach settings."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import bentoml
import jsonschema_rs
import pytest
import yaml
from bentoml._internal.container.generate import BENTO_PATH

from hf_runtime.settings import ModelSettings, load_settings
from tests.deployment.files import (
    FOLDER,
    IMAGE,
    SPECIFICATIONS,
    closed,
    of_kind,
    predictor,
    resources,
    runtime_container,
)
from tests.e2e.metrics_load import documented_metrics, metrics_in
from tests.project import ROOT

_ENTRYPOINT = Path(bentoml.__file__).parent / "_internal" / "container" / "frontend" / "dockerfile" / "entrypoint.sh"

#: Replacement for `bentoml serve`.
_TELL = f"""#!{sys.executable}
import json, os, sys
print(json.dumps([sys.argv, dict(os.environ)]))
"""


def _schema(kind: str) -> jsonschema_rs.Validator:
    name = {"InferenceService": "inference_service", "ClusterServingRuntime": "cluster_serving_runtime"}[kind]
    text = (SPECIFICATIONS / f"kserve_{name}.yaml").read_text(encoding="utf-8")
    return jsonschema_rs.validator_for(closed(yaml.safe_load(text)))


_OURS = [(name, each) for name, each in resources() if each["apiVersion"].startswith("serving.kserve.io/")]


@pytest.mark.parametrize("resource", [each for _, each in _OURS], ids=[name for name, _ in _OURS])
def test_kserve_knows_every_field(resource: Any) -> None:
    assert [error.message for error in _schema(resource["kind"]).iter_errors(resource)] == []


@pytest.mark.parametrize("place", [("spec",), ("spec", "containers", 0), ("spec", "containers", 0, "readinessProbe")])
def test_a_field_unknown_to_kserve_is_detected(place: tuple[str | int, ...]) -> None:
    (runtime,) = copy.deepcopy(of_kind("ClusterServingRuntime"))
    inner = runtime
    for step in place:
        inner = inner[step]
    inner["slip"] = "of the pen"
    (error,) = _schema("ClusterServingRuntime").iter_errors(runtime)
    assert "'slip' was unexpected" in error.message


def test_the_server_accepts_every_inference_service_by_itself() -> None:
    settings = load_settings(FOLDER / "kserve" / "inference-service.yaml")
    assert [model.name for model in settings.models] == ["sentiment", "ner", "embedder", "qwen2.5", "large"]
    assert not [note for note in settings.notes if "did you mean" in note]


def test_every_example_runs_on_the_runtime() -> None:
    (runtime,) = of_kind("ClusterServingRuntime")
    formats = {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
    for service in of_kind("InferenceService"):
        if "model" in service["spec"]["predictor"]:
            model = predictor(service)
            assert model["runtime"] == runtime["metadata"]["name"]
            assert model["modelFormat"]["name"] in formats
            assert model.get("protocolVersion", "v1") in runtime["spec"]["protocolVersions"]


def test_kserve_can_choose_the_runtime_without_a_changed_line() -> None:
    (runtime,) = of_kind("ClusterServingRuntime")
    (served,) = runtime["spec"]["supportedModelFormats"]
    assert served["priority"] > 1, "KServe's own has 1"
    # `predictor.huggingface` means V2 to KServe, and `predictor.model` V1 unless it says otherwise.
    assert set(runtime["spec"]["protocolVersions"]) >= {"v1", "v2"}
    assert runtime_container()["name"] == "kserve-container"
    assert runtime_container()["image"].split(":")[0] == IMAGE


def test_the_runtime_listens_on_the_port_that_kserve_uses() -> None:
    container, port = runtime_container(), 8080
    assert [each["containerPort"] for each in container["ports"]] == [port]
    assert {"name": "BENTOML_PORT", "value": str(port)} in container["env"]
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("readiness", "liveness")} == {port}
    (runtime,) = of_kind("ClusterServingRuntime")
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == str(port)


def test_kserve_fills_in_the_name_and_nothing_else() -> None:
    text = json.dumps(runtime_container())
    assert text.count("{{") == text.count("{{.Name}}") == 1
    assert "$(" not in text, "Kubernetes would fill it in"


def test_the_runtime_can_write_only_to_its_cache_and_tmp() -> None:
    (runtime,) = of_kind("ClusterServingRuntime")
    container = runtime_container()
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts) == {"/cache", "/tmp"}
    assert set(mounts.values()) == {volume["name"] for volume in runtime["spec"]["volumes"]}
    homes = [each["value"] for each in container["env"] if each["name"] in ("HOME", "BENTOML_HOME")]
    assert all(Path(home).is_relative_to("/cache") for home in homes)
    assert len(homes) == 2
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["runAsNonRoot"]


def _start(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run what KServe starts for an InferenceService `bert`, in an image of our code."""
    (folder / "bento").mkdir()
    (folder / "bento" / "src").symlink_to(ROOT)
    (folder / "bin").mkdir()
    (folder / "bin" / "bentoml").write_text(_TELL, encoding="utf-8")
    (folder / "bin" / "bentoml").chmod(stat.S_IRWXU)
    container = runtime_container()
    entrypoint, *command = container["command"]
    assert entrypoint == f"{BENTO_PATH}/env/docker/entrypoint.sh"
    merged = {each["name"]: each["value"].replace("{{.Name}}", "bert") for each in container["env"]} | environment
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", str(_ENTRYPOINT), *command, *container.get("args", []), *arguments],
        env={**merged, "PATH": path, "BENTO_PATH": str(folder / "bento"), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder / "bento", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "environment", "model"),
    [
        ([], {"TASK": "fill-mask"}, {"name": "bert", "storage_uri": "/mnt/models", "task": "fill-mask"}),
        (["--model_dir=/mnt/models"], {"MODEL_NAME": "mine"}, {"name": "mine", "storage_uri": "/mnt/models"}),
        (
            [
                "--model_id",
                "google-bert/bert-base-uncased",
                "--model_name=other",
                "--task=fill_mask",
                "--dtype",
                "half",
            ],
            {"TASK": "text-classification"},
            {
                "name": "other",
                "storage_uri": "hf://google-bert/bert-base-uncased",
                "task": "fill-mask",
                "torch_dtype": "float16",
            },
        ),
    ],
    ids=["env", "folder", "args"],
)
def test_fields_of_an_inference_service_reach_the_server(
    arguments: list[str],
    environment: dict[str, str],
    model: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = _start(tmp_path, *arguments, **environment)
    assert started.returncode == 0, started.stderr
    command, variables = json.loads(started.stdout)
    assert command[1:] == ["serve", str(tmp_path / "bento")]
    assert variables["BENTOML_PORT"] == "8080"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = ModelSettings()
    assert {name: getattr(settings, name) for name in model} == model


def test_an_argument_that_is_not_supported_ends_the_start_with_one_line(tmp_path: Path) -> None:
    started = _start(tmp_path, "--model_id=a/b", "--tensor-parallel-size=2")
    assert started.returncode == 1
    assert started.stderr == "Error: args: --tensor_parallel_size is not supported\n"


def test_keda_queries_a_metric_that_the_server_has() -> None:
    specs = [service["spec"]["predictor"] for service in of_kind("InferenceService")]
    (metric,) = [
        each["external"]["metric"] for spec in specs for each in spec.get("autoScaling", {}).get("metrics", [])
    ]
    assert metrics_in(metric["query"])
    assert metrics_in(metric["query"]) <= documented_metrics()

"""Promise: Kubernetes accepts the manifests, and they fit each other and the server."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from kubernetes_validate import ValidationError, validate  # type: ignore[import-untyped]

from hf_runtime.settings import ServerSettings, load_settings
from tests.deployment.files import (
    FOLDER,
    IMAGE,
    SPECIFICATIONS,
    document,
    documents,
    of_kind,
    resources,
    runtime_container,
    server_container,
)
from tests.e2e.metrics_load import documented_metrics

_VERSION = "1.37"
_OWN_GROUPS = ("serving.kserve.io/", "kustomize.config.k8s.io/")
_NATIVE = [(name, each) for name, each in resources() if not each["apiVersion"].startswith(_OWN_GROUPS)]


def _pod() -> Any:
    (deployment,) = of_kind("Deployment")
    return deployment["spec"]["template"]


@pytest.mark.parametrize("resource", [each for _, each in _NATIVE], ids=[name for name, _ in _NATIVE])
def test_kubernetes_knows_every_field(resource: Any) -> None:
    assert validate(resource, _VERSION, strict=True) == _VERSION


def test_a_field_unknown_to_kubernetes_is_detected() -> None:
    (deployment,) = copy.deepcopy(of_kind("Deployment"))
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(ValidationError, match="readynessProbe"):
        validate(deployment, _VERSION, strict=True)


def test_kustomize_knows_every_field() -> None:
    schema = json.loads((SPECIFICATIONS / "kustomization.json").read_text(encoding="utf-8"))
    kustomization = document("kubernetes/kustomization.yaml")
    assert [error.message for error in jsonschema_rs.validator_for(schema).iter_errors(kustomization)] == []


def test_the_kustomization_has_all_that_the_pods_need() -> None:
    kustomization = document("kubernetes/kustomization.yaml")
    assert set(kustomization["resources"]) == {f"{name.split('/')[0]}.yaml" for name, _ in _NATIVE}
    files = {each["name"]: each["files"] for each in kustomization["configMapGenerator"]}
    maps = [volume["configMap"]["name"] for volume in _pod()["spec"]["volumes"] if "configMap" in volume]
    assert set(maps) == set(files)
    assert all((FOLDER / "kubernetes" / file).is_file() for names in files.values() for file in names)
    assert [each["name"] for each in kustomization["images"]] == [server_container()["image"].split(":")[0]] == [IMAGE]


def test_all_selectors_match_the_pods_of_the_deployment() -> None:
    (deployment,) = of_kind("Deployment")
    (service,), (budget,), (scaler,) = map(of_kind, ("Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"))
    labels = _pod()["metadata"]["labels"]
    (spread,) = _pod()["spec"]["topologySpreadConstraints"]
    for selector in (
        service["spec"]["selector"],
        deployment["spec"]["selector"]["matchLabels"],
        budget["spec"]["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels.items()
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (deployment["kind"], deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"], "two would say how many"
    ports = {port["name"] for port in server_container()["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_a_request_is_answered_before_its_pod_is_killed() -> None:
    environment = {each["name"]: each.get("value") for each in server_container()["env"]}
    grace, drain = _pod()["spec"]["terminationGracePeriodSeconds"], float(environment["DRAIN_SECONDS"])
    pause = server_container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause + drain >= float(environment["REQUEST_TIMEOUT"])
    assert grace >= pause + drain + 5


def test_the_autoscaler_reads_a_metric_of_the_server_that_prometheus_adapter_provides() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    metrics = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]}
    assert metrics <= documented_metrics()
    rules = document("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    assert {rule["seriesQuery"].split("{")[0] for rule in rules} == metrics
    assert all("name" not in rule for rule in rules), "a rule without one tells the metric by its own name"


def test_prometheus_scrapes_the_port_of_the_server() -> None:
    notes = _pod()["metadata"]["annotations"]
    assert (
        [int(notes["prometheus.io/port"])] == [port["containerPort"] for port in server_container()["ports"]] == [3000]
    )


def test_the_server_can_write_only_to_its_cache_and_tmp() -> None:
    container, volumes = server_container(), {volume["name"]: volume for volume in _pod()["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    assert {path for path, mount in mounts.items() if not mount.get("readOnly")} == {"/cache", "/tmp"}
    assert all("emptyDir" in volumes[mounts[path]["name"]] for path in ("/cache", "/tmp"))
    homes = [each["value"] for each in container["env"] if each["name"] in ("HOME", "BENTOML_HOME")]
    assert all(Path(home).is_relative_to("/cache") for home in homes)
    assert len(homes) == 2
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert _pod()["spec"]["securityContext"]["runAsNonRoot"]


def test_the_server_finds_its_models_and_their_secrets_where_they_are_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container, (models,) = server_container(), documents("kubernetes/models.yaml")
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    config = {each["name"]: each.get("value") for each in container["env"]}["RUNTIME_CONFIG"]
    assert config == str(mounts["models"] / "models.yaml")
    folder = mounts["hf-token"].relative_to(ServerSettings().secrets_dir)
    (reference,) = [
        each["valueFrom"]["secretKeyRef"]
        for each in models["spec"]["predictor"]["huggingface"]["env"]
        if "valueFrom" in each
    ]
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    (model,) = load_settings(FOLDER / "kubernetes" / "models.yaml").models
    assert model.hf_token is None
    (tmp_path / folder).mkdir()
    (tmp_path / folder / reference["key"]).write_text("hf_secret\n", encoding="utf-8")
    (model,) = load_settings(FOLDER / "kubernetes" / "models.yaml").models
    assert model.hf_token is not None
    assert model.hf_token.get_secret_value() == "hf_secret"


def test_a_pod_without_a_loadable_model_ends() -> None:
    for container in (server_container(), runtime_container()):
        (asked,) = [each["value"] for each in container["env"] if each["name"] == "EXIT_ON_FAILURE"]
        assert asked == "true"

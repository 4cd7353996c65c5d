"""Promises of a runner's service: resources in BentoML's units, the operator's own GPUs, secrets in no manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runners.service import runner_service
from settings import ModelSettings, ServerSettings, load_settings

SERVICE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: m}
spec:
  predictor:
    huggingface:
      storageUri: /model
      env:
        - {name: TORCH_CUDA_ARCH_LIST, value: "8.0"}
        - {name: PASSPHRASE, valueFrom: {secretKeyRef: {name: s, key: k}}}
      resources: {limits: {cpu: 1500m, memory: 2Gi, nvidia.com/gpu: 2}}
---
{kind: Secret, metadata: {name: s}, stringData: {k: hidden}}
"""


def _service(**options: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Resources and environment of the process."""
    service = runner_service(ModelSettings(storage_uri="/model", task="fill-mask", **options), 1, ServerSettings())
    return service.config["resources"], {variable.name: variable.value for variable in service.envs}


def test_limits_are_resources_in_bentomls_units() -> None:
    resources, _ = _service(cpus=1.5, memory_limit=2 * 2**30, gpus=2)
    assert resources == {"cpu": 1.5, "memory": 2, "gpu": 2}


def test_gpus_that_the_operator_names_are_not_chosen_again() -> None:
    resources, environment = _service(gpus=1, cuda_visible_devices="3")
    assert "gpu" not in resources
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"


def test_variables_reach_the_process_and_secrets_stay_out_of_what_a_bento_writes_down(tmp_path: Path) -> None:
    config = tmp_path / "m.yaml"
    config.write_text(SERVICE)
    (model,) = load_settings(config).models
    service = runner_service(model, 1, ServerSettings())
    environment = {variable.name: variable.value for variable in service.envs}
    assert environment["TORCH_CUDA_ARCH_LIST"] == "8.0"
    assert "PASSPHRASE" not in environment
    assert service.config["resources"] == {"cpu": 1.5, "memory": 2, "gpu": 2}

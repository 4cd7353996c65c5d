"""Promise: `bentoml deploy -f` accepts the file, which describes the Bento's services."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from _bentoml_sdk.service.config import validate  # type: ignore[import-untyped]
from bentoml._internal.cloud.deployment import DeploymentAPI
from bentoml._internal.cloud.schemas.modelschemas import DeploymentStrategy
from bentoml._internal.cloud.schemas.schemasv2 import CreateDeploymentSchema
from cattrs import ClassValidationError, Converter

from hf_runtime.settings import ModelSettings, ServerSettings
from runners.service import create_runner_service
from tests.deployment.files import document
from tests.project import ROOT


def _read(written: Any) -> CreateDeploymentSchema:
    """Parse the file as BentoML does, except that an unknown field is an error."""
    return Converter(forbid_extra_keys=True).structure(copy.deepcopy(written), CreateDeploymentSchema)


def test_bentoml_knows_every_field() -> None:
    deployment = _read(document("bentocloud.yaml"))
    DeploymentAPI._fix_and_validate_schema(deployment)
    for service in deployment.services.values():
        assert DeploymentStrategy(service.deployment_strategy)
        # BentoML ignores unknown fields.
        assert validate(service.config_overrides) == service.config_overrides


@pytest.mark.parametrize("place", [(), ("services", "runner-1"), ("services", "runner-1", "scaling"), ("envs", 0)])
def test_a_field_unknown_to_bentoml_is_detected(place: tuple[str | int, ...]) -> None:
    written = document("bentocloud.yaml")
    inner = written
    for step in place:
        inner = inner[step]
    inner["slip"] = "of the pen"
    with pytest.raises(ClassValidationError):
        _read(written)


def test_the_entry_service_and_its_runner_share_a_secret_key() -> None:
    written = document("bentocloud.yaml")
    assert written["secrets"] == ["runner-key"]
    said = [*written["envs"], *(env for service in written["services"].values() for env in service.get("envs", []))]
    assert not [variable for variable in said if "KEY" in variable["name"]]


def test_the_services_are_those_of_the_bento() -> None:
    bentofile = yaml.safe_load((ROOT / "bentofile.yaml").read_text(encoding="utf-8"))
    entry = bentofile["service"].split(":")[1]
    runner = create_runner_service(ModelSettings(storage_uri="/model"), 1, ServerSettings())
    assert list(document("bentocloud.yaml")["services"]) == [entry, runner.name]

"""The deployment files: their documents, and the variables that they set for the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from hf_runtime.settings.load import _variables
from hf_runtime.settings.model import ModelSettings
from hf_runtime.settings.server import ServerSettings
from tests.project import ROOT

FOLDER = ROOT / "deployment"
SPECIFICATIONS = ROOT / "tests" / "specifications"

IMAGE = "hugging-face-runtime"

#: Variables of the settings, and those of the libraries that the server consists of.
KNOWN = frozenset(_variables(ModelSettings) | _variables(ServerSettings) | {"BENTOML_HOME", "BENTOML_PORT", "HOME"})

#: `${NAME:-default}` in a compose file.
_VARIABLE = re.compile(r"\$\{\w+:-(.*?)\}")


def documents(name: str) -> list[Any]:
    """Return the documents of one file, by its path in the folder."""
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def document(name: str) -> Any:
    """Return the document of a file that has only one."""
    (only,) = documents(name)
    return only


def resources() -> list[tuple[str, Any]]:
    """Return all documents for a cluster, with names for tests.

    They are of Kubernetes, KServe and kustomize.
    """
    paths = sorted([*FOLDER.glob("kubernetes/*.yaml"), *FOLDER.glob("kserve/*.yaml")])
    every = [(path.stem, each) for path in paths for each in documents(str(path.relative_to(FOLDER)))]
    return [(f"{stem}/{each.get('metadata', {}).get('name')}", each) for stem, each in every if "kind" in each]


def of_kind(*kinds: str) -> list[Any]:
    """Return the documents of these kinds."""
    found = [each for _, each in resources() if each["kind"] in kinds]
    assert found, f"no document is of the kind {' or '.join(kinds)}"
    return found


def server_container() -> Any:
    """Return the container of the Deployment."""
    (deployment,) = of_kind("Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


def runtime_container() -> Any:
    """Return the container of the ClusterServingRuntime."""
    (runtime,) = of_kind("ClusterServingRuntime")
    (container,) = runtime["spec"]["containers"]
    return container


def predictor(service: Any) -> Any:
    """Return the part that describes the model, in either form of an InferenceService."""
    either = service["spec"]["predictor"]
    return either.get("model") or either["huggingface"]


def compose_environment() -> dict[str, str]:
    """Return the variables of the compose file with its defaults."""
    given: dict[str, str] = document("compose/compose.yaml")["services"]["server"]["environment"]
    return {name: _VARIABLE.sub(lambda found: found[1], value) for name, value in given.items()}


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name and the variables of each environment in which the server starts.

    The value of a variable from a Secret is empty.
    """
    yield "compose", compose_environment()
    yield "bentocloud", {each["name"]: each["value"] for each in document("bentocloud.yaml")["envs"]}
    yield "deployment", _named(server_container())
    yield "runtime", _named(runtime_container())
    for service in of_kind("InferenceService"):
        yield service["metadata"]["name"], _named(predictor(service))


def _named(container: Any) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container.get("env", [])}


def closed(schema: Any) -> Any:
    """Make unknown fields an error in a custom resource's schema, as with strict validation."""
    match schema:
        case list():
            return [closed(each) for each in schema]
        case {"properties": dict(), **rest} if "additionalProperties" not in rest:
            return {name: closed(value) for name, value in {**schema, "additionalProperties": False}.items()}
        case dict():
            return {name: closed(value) for name, value in schema.items()}
        case _:
            return schema

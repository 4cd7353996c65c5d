"""Promise: docker compose accepts its files, and server, Prometheus and Grafana connect."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs
import pytest

from hf_runtime.bento.arguments import CACHE, image
from hf_runtime.settings import ServerSettings
from tests.deployment.files import FOLDER, IMAGE, SPECIFICATIONS, document
from tests.project import ROOT


def _wrong(written: Any, schema: str) -> list[str]:
    """List a document's violations of a schema."""
    validator = jsonschema_rs.validator_for(json.loads((SPECIFICATIONS / schema).read_text(encoding="utf-8")))
    return [error.message for error in validator.iter_errors(written)]


def _services() -> Any:
    return document("compose/compose.yaml")["services"]


def _mounts(service: str) -> dict[str, str]:
    """Return the mounted paths and names of volumes by their mount points."""
    return {each.split(":")[1]: each.split(":")[0] for each in _services()[service]["volumes"]}


def _ports(service: str) -> set[int]:
    return {int(str(each).rsplit(":", 1)[1]) for each in _services()[service]["ports"]}


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_knows_every_field(name: str) -> None:
    assert _wrong(document(f"compose/{name}"), "compose-spec.json") == []


def test_prometheus_knows_every_field() -> None:
    assert _wrong(document("compose/prometheus.yml"), "prometheus.json") == []


def test_a_field_unknown_to_compose_is_detected() -> None:
    compose = document("compose/compose.yaml")
    compose["services"]["server"]["enviroment"] = {}
    (error,) = _wrong(compose, "compose-spec.json")
    assert "'enviroment'" in error


def test_the_gpu_file_extends_the_server() -> None:
    assert set(document("compose/compose.gpu.yaml")["services"]) == {"server"}
    assert _services()["server"]["image"].split(":")[0] == IMAGE


def test_every_mounted_file_exists() -> None:
    for service in _services():
        for source in _mounts(service).values() if "volumes" in _services()[service] else ():
            if source.startswith("."):
                assert (FOLDER / "compose" / source).resolve().is_relative_to(ROOT)
                assert (FOLDER / "compose" / source).exists()
            else:
                assert source in document("compose/compose.yaml")["volumes"]


def test_the_server_can_write_only_to_its_cache_and_tmp() -> None:
    server = _services()["server"]
    assert server["read_only"]
    assert set(_mounts("server")) | set(server["tmpfs"]) == {"/cache", "/tmp"}
    homes = [server["environment"][name] for name in ("HOME", "BENTOML_HOME")]
    assert all(Path(home).is_relative_to("/cache") for home in homes)
    # A new volume gets the owner of the folder that it replaces, and the server is not root.
    assert _mounts("server")[CACHE] == "cache"
    assert f"install -d -o bentoml -g bentoml {CACHE}" in image("cpu").commands


def test_a_stop_waits_for_running_requests() -> None:
    seconds = int(_services()["server"]["stop_grace_period"].removesuffix("s"))
    assert seconds >= ServerSettings().drain_seconds + 5


def test_prometheus_scrapes_the_port_of_the_server() -> None:
    assert "/etc/prometheus/prometheus.yml" in _mounts("prometheus")
    (job,) = document("compose/prometheus.yml")["scrape_configs"]
    (target,) = [target for each in job["static_configs"] for target in each["targets"]]
    host, port = target.split(":")
    assert int(port) in _ports(host)
    assert _services()[host]["image"].split(":")[0] == IMAGE


def test_grafana_finds_prometheus() -> None:
    assert _mounts("grafana")["/etc/grafana/provisioning"] == "./grafana/provisioning"
    (source,) = document("compose/grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    url = urlsplit(source["url"])
    assert url.port in _ports(str(url.hostname))
    dashboard = (ROOT / "configs" / "grafana" / "dashboard.json").read_text(encoding="utf-8")
    wanted = [each["query"] for each in json.loads(dashboard)["templating"]["list"] if each["type"] == "datasource"]
    assert wanted == [source["type"]]


def test_grafana_shows_the_dashboard() -> None:
    (provider,) = document("compose/grafana/provisioning/dashboards/files.yaml")["providers"]
    folder = FOLDER / "compose" / _mounts("grafana")[provider["options"]["path"]]
    assert (folder / "dashboard.json").samefile(ROOT / "configs" / "grafana" / "dashboard.json")
    first = _services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert first == f"{provider['options']['path']}/dashboard.json"


def test_only_the_server_is_reachable_from_other_machines() -> None:
    published = {name: service["ports"] for name, service in _services().items() if "ports" in service}
    inner = [port for name, ports in published.items() if name != "server" for port in ports]
    assert inner
    assert all(re.match(r"127\.0\.0\.1:", port) for port in inner)

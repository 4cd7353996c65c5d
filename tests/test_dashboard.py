"""Promise: Grafana can load the dashboard."""

from __future__ import annotations

import json
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.project import ROOT

_DASHBOARD = ROOT / "configs" / "grafana" / "dashboard.json"


def _holds_every_field(written: Any, read: Any) -> bool:
    """Return True if the parsed value keeps every field that is given and adds only defaults."""
    match written:
        case dict():
            return all(name in read and _holds_every_field(value, read[name]) for name, value in written.items())
        case list():
            return len(written) == len(read) and all(map(_holds_every_field, written, read))
        case _:
            return bool(written == read)


def test_grafana_reads_every_field_of_the_dashboard() -> None:
    written = json.loads(_DASHBOARD.read_text(encoding="utf-8"))
    assert _holds_every_field(written, json.loads(JSONEncoder().encode(Dashboard.from_json(written))))


def test_each_panel_has_its_own_queries_and_position() -> None:
    panels = json.loads(_DASHBOARD.read_text(encoding="utf-8"))["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) == len({panel["id"] for panel in panels})
    assert all(panel["targets"] for panel in panels)

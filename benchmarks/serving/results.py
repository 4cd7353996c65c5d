"""Medians and ratios of all rounds, and the file of results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.report import json_lines, spread
from benchmarks.serving.bounds import bound_key
from benchmarks.serving.contest import Contest
from benchmarks.serving.workloads import NEW_TOKENS

FOLDER = ROOT / "benchmarks/results"
NAME = "serving.json"

#: Figures that are joined by their largest value, and by their sum; all others by their median.
_LARGEST, _SUMS = ("idle_cores", "foreign_cores"), ("requests", "errors")


def result_of(contest: Contest) -> dict[str, Any]:
    """Combine the rounds of one workload."""
    workload = contest.workload
    offline = {
        key: {"name": name, **middle([figures[key] for figures in contest.rounds])}
        for key, name in contest.offline.items()
    }
    targets = {}
    for key, about in contest.targets.items():
        measured = [figures[key] for figures in contest.rounds if key in figures]
        load = {
            str(connections): middle([figures[str(connections)] for figures in measured])
            for connections in workload.connections
            if measured
        }
        targets[key] = {**about, "load": load}
    result = {
        "model": workload.what,
        "unit": workload.unit,
        "connections": list(workload.connections),
        "tail": workload.tail,
        "bound": bound_key(workload),
        "offline": offline,
        "targets": targets,
    }
    add_ratios(result)
    return result


def middle(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the figures of several rounds; add the spread of their speeds.

    The spread is a share of the median.

    Rounds that failed are left out, unless all did.
    """
    whole = [figures for figures in rounds if "failed" not in figures]
    if not whole:
        return dict(rounds[0])
    joined: dict[str, Any] = {}
    for name, value in whole[0].items():
        values = [figures[name] for figures in whole if figures[name] is not None]
        if not values:
            joined[name] = None
        elif isinstance(value, str):
            joined[name] = next(filter(None, values), "")
        else:
            joined[name] = (max if name in _LARGEST else sum if name in _SUMS else median)(values)
    joined["spread"] = spread([figures["requests_per_second"] for figures in whole])
    return joined


def per_second(result: Mapping[str, Any], figures: Mapping[str, Any]) -> float:
    """Return requests or tokens per second, depending on the workload."""
    factor = NEW_TOKENS if result["unit"].startswith("tokens") else 1
    return float(factor * figures["requests_per_second"])


def add_ratios(result: dict[str, Any]) -> None:
    """Add the speed relative to the bound and to the best peer.

    For a single client, the time of one answer is compared.
    """
    bound = result["offline"][result["bound"]]
    for connections in map(str, result["connections"]):
        every = [about["load"].get(connections, {}) for about in result["targets"].values()]
        peers = [about["load"].get(connections, {}) for about in result["targets"].values() if not about["ours"]]
        best = max((figures.get("requests_per_second", 0.0) for figures in peers), default=0.0)
        for figures in every:
            if "requests_per_second" not in figures:
                continue
            if connections == "1" and figures["p50_ms"]:
                figures["to_bound"] = bound["p50_ms"] / figures["p50_ms"]
            else:
                figures["to_bound"] = figures["requests_per_second"] / bound["requests_per_second"]
            if best:
                figures["to_best_peer"] = figures["requests_per_second"] / best


def write(folder: Path, machine: Mapping[str, Any], options: Mapping[str, Any], results: Mapping[str, Any]) -> Path:
    """Write the file of results and return its path."""
    document = {
        "date": date.today().isoformat(),
        "machine": machine,
        "options": options,
        "workloads": _rounded(results),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    path.write_text(json_lines(document) + "\n", encoding="utf-8")
    return path


def name_of(folder: Path) -> str:
    """Return the name of a folder's table in docs/speed.md.

    Results of other machines have folders of their own.
    """
    return "bench" if folder.resolve() == FOLDER.resolve() else f"bench-{folder.name}"


def read(folder: Path = FOLDER) -> dict[str, Any]:
    """Load the latest results.

    Raises:
        BenchmarkError: there are none.
    """
    path = folder / NAME
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{NAME} cannot be read; `make bench` writes it: {error}") from None
    return document


def _rounded(value: Any) -> Any:
    """Round numbers to significant digits."""
    match value:
        case float():
            return float(f"{value:.5g}")
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list():
            return [_rounded(inner) for inner in value]
        case _:
            return value

"""Plot of the results: speed of each target by the number of clients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.serving.results import per_second

matplotlib.use("Agg")

from matplotlib import pyplot  # after the choice of a backend without a screen
from matplotlib.axes import Axes

NAME = "serving.png"

#: Colours of our own targets; peers share the rest and keep their colour in every panel.
_OURS = ("#0b5cad", "#3f97e0", "#8cc5f2", "#6b7785")
_PEERS = ("#d1495b", "#edae49", "#2a9d8f", "#7a5195", "#8c6d46", "#b5c334", "#e377c2")
_BOUND = "#444444"


def draw(document: Mapping[str, Any], folder: Path) -> Path:
    """Save the picture and return its path."""
    results = document["workloads"]
    colours = _colours(results)
    width = 4.6 * len(results)
    figure, panels = pyplot.subplots(1, len(results), figsize=(width, 4.4), squeeze=False, layout="constrained")
    for panel, (workload, result) in zip(panels[0], results.items(), strict=True):
        _draw(panel, workload, result, colours)
    lines = {
        label: line
        for panel in panels[0]
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    figure.legend(
        lines.values(), lines.keys(), loc="outside lower center", ncol=max(int(width / 2.3), 2), frameon=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path


def _draw(panel: Axes, workload: str, result: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    clients = [str(connections) for connections in result["connections"]]
    for about in result["targets"].values():
        points = [
            (place, per_second(result, about["load"][number]))
            for place, number in enumerate(clients)
            if "requests_per_second" in about["load"].get(number, {})
        ]
        if points:
            panel.plot(
                *zip(*points, strict=True),
                marker="o",
                markersize=4,
                linewidth=2.4 if about["ours"] else 1.4,
                zorder=3 if about["ours"] else 2,
                color=colours[about["name"]],
                label=about["name"],
            )
    bound = per_second(result, result["offline"][result["bound"]])
    panel.axhline(bound, linestyle="--", linewidth=1.2, color=_BOUND, label="without a server (bound)", zorder=1)
    panel.set_title(f"{workload.capitalize()}\n{result['model']}", fontsize=10)
    panel.set_xticks(range(len(clients)), clients)
    panel.set_xlabel("clients that ask at once")
    panel.set_ylabel(result["unit"])
    panel.set_ylim(bottom=0)
    panel.grid(axis="y", color="#dddddd", linewidth=0.7)
    panel.spines[["top", "right"]].set_visible(False)


def _colours(results: Mapping[str, Any]) -> dict[str, str]:
    names: dict[bool, list[str]] = {True: [], False: []}
    for result in results.values():
        for about in result["targets"].values():
            if about["name"] not in names[about["ours"]]:
                names[about["ours"]].append(about["name"])
    palettes = {True: _OURS, False: _PEERS}
    return {
        name: palettes[ours][place % len(palettes[ours])] for ours in names for place, name in enumerate(names[ours])
    }

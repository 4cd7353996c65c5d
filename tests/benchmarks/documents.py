"""Result files of a benchmark, with two targets and one that failed."""

from __future__ import annotations

from typing import Any


def load(speed: float, **more: Any) -> dict[str, Any]:
    """Return figures of one measurement."""
    figures = {"requests_per_second": speed, "p50_ms": 20.0, "p99_ms": 50.0, "cpu_ms": 12.0, "requests": 90}
    return {**figures, "errors": 0, "error": "", "idle_cores": 0.01, "foreign_cores": 0.02, **more}


def document() -> dict[str, Any]:
    """Return a file of results."""
    targets = {
        "ours": _target("ours", True, {"1": load(50.0), "16": load(160.0)}),
        "other": _target("Other", False, {"1": load(40.0), "16": load(80.0, errors=3, error="503: busy")}),
        "absent": {"name": "Absent", "ours": False, "failed": "is not for this platform", "load": {}},
    }
    offline = {"transformers": {"name": "plain transformers", **load(100.0)}}
    result = {
        "model": "a model",
        "unit": "requests/s",
        "connections": [1, 16],
        "tail": 16,
        "bound": "transformers",
        "offline": offline,
        "targets": targets,
    }
    return {"machine": {"cpu": "a CPU"}, "workloads": {"embedding": result}}


def _target(name: str, ours: bool, loads: dict[str, Any]) -> dict[str, Any]:
    answers = {"max_difference": 1e-7, "min_cosine": 0.99999, "mean_cosine": 1.0}
    return {"name": name, "ours": ours, "memory_mib": 700, "start_seconds": 9.0, "answers": answers, "load": loads}

"""Reports from figures: a table for people and a file for programs."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.processes import ROOT
from runners.kernels.cores import read_cpu_name

_PATH = Path("benchmarks/results/generation.json")

#: Rows of the table: the name of a figure, its label (which may show others) and its format.
_ROWS = (
    ("sequential_tokens_per_second", "`model.generate`, one by one ({sequential_requests:.0f}), tokens/s", ".1f"),
    ("offline_tokens_per_second", "engine offline ({offline_requests:.0f} at once), tokens/s", ".1f"),
    ("server_tokens_per_second", "server ({offline_requests:.0f} streams at once), tokens/s", ".1f"),
    ("offline_to_sequential", "offline ÷ sequential", ".2f"),
    ("server_to_sequential", "server ÷ sequential", ".2f"),
    ("server_to_offline", "server ÷ offline", ".2f"),
    ("first_token_p50_ms", "time to first token, all at once, p50, ms", ".0f"),
    ("first_token_max_ms", "time to first token, all at once, longest, ms", ".0f"),
    ("between_tokens_p50_ms", "between tokens, p50, ms", ".1f"),
    ("between_tokens_p99_ms", "between tokens, p99, ms", ".1f"),
    ("alone_first_token_ms", "time to first token, alone, ms", ".0f"),
    ("newcomer_first_token_ms", "time to first token beside {beside_newcomer:.0f} running, ms", ".0f"),
    ("newcomer_ratio", "beside {beside_newcomer:.0f} ÷ alone", ".2f"),
    ("longest_pause_ms", "longest pause of {beside_long_prompt:.0f} as {long_prompt_tokens:.0f} join, ms", ".0f"),
    ("longest_pause_ratio", "longest ÷ median pause before ({pause_before_ms:.0f} ms)", ".2f"),
    ("long_prompt_first_token_ms", "time to first token of those {long_prompt_tokens:.0f}, ms", ".0f"),
    ("offline_same_answers", "answers of offline that equal sequential's, share", ".2f"),
    ("server_same_answers", "answers of the server that equal sequential's, share", ".2f"),
    ("foreign_cores", "cores taken by other programs meanwhile, at most", ".2f"),
)  # fmt: skip


def table(rounds: Sequence[Mapping[str, float]]) -> str:
    """Format a Markdown table of the median of each figure and its value in each round."""
    medians = _medians(rounds)
    lines = ["| | Median | Rounds |", "|---|---:|---|"]
    for name, words, form in _ROWS:
        each = ", ".join(format(figures[name], form) for figures in rounds)
        lines.append(f"| {words.format_map(medians)} | {medians[name]:{form}} | {each} |")
    return "\n".join(lines)


def write_json(facts: Mapping[str, Any], rounds: Sequence[Mapping[str, float]]) -> Path:
    """Write the figures with the machine's description; return the file's relative path."""
    document = {
        "date": date.today().isoformat(),
        "machine": {**machine(), **facts},
        "median": _rounded(_medians(rounds)),
        "spread": _rounded({name: spread([figures[name] for figures in rounds]) for name in rounds[0]}),
    }
    path = ROOT / _PATH
    path.parent.mkdir(exist_ok=True)
    path.write_text(json_lines(document) + "\n", encoding="utf-8")
    return _PATH


def json_lines(value: Any) -> str:
    """Return JSON with a line for each object that holds no other."""
    if not isinstance(value, dict) or not any(isinstance(inner, dict) for inner in value.values()):
        return json.dumps(value)
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json_lines(inner)}" for key, inner in value.items()) + "\n}"


def spread(values: Sequence[float]) -> float:
    """Return the distance of the largest value from the smallest one, as a share of the median."""
    return (max(values) - min(values)) / (median(values) or 1)


def gpu_name() -> str:
    """Return the name of the GPU that computes, as its driver reports it."""
    import torch

    return str(torch.cuda.get_device_name())


def machine() -> dict[str, Any]:
    """Describe the machine and the versions, on which figures depend besides the code."""
    return {
        "cpu": read_cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}

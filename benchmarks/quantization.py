"""Memory and time of a model in each precision: float32, bfloat16, 8 bit and 4 bit.

    make bench-quantization
    .venv/bin/python -m benchmarks.quantization --rounds 1

Each precision is loaded as the server loads it, in a process of its own whose resident memory is read before and after.
Classification is BERT-base with random weights, which cost as much as trained ones; generation is
SmolLM2-135M-Instruct, saved once as float32 without its GGUF.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import psutil

from benchmarks.models import bert_classifier, generator
from hf_runtime.settings import ModelSettings

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"torch_dtype": "float32"},
    "bfloat16": {"torch_dtype": "bfloat16"},
    "8 bit": {"load_in_8bit": True},
    "4 bit": {"load_in_4bit": True},
}
_TEXT = "The future of artificial intelligence is bright and full of possibilities. " * 4


def main() -> None:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_measure(ModelSettings(**json.loads(arguments.one)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "text-classification": bert_classifier(Path(folder) / "classifier"),
            "text-generation": generator(Path(folder) / "generator"),
        }
        print("| Task | Precision | MiB | ÷ float32 | Seconds an item | ÷ float32 |\n|---|---|---:|---:|---:|---:|")
        for task, path in models.items():
            for line in _lines(task, path, arguments.rounds):
                print(line, flush=True)


def _lines(task: str, path: Path, rounds: int) -> Iterator[str]:
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in PRECISIONS}
    for _ in range(rounds):
        for name, options in PRECISIONS.items():
            figures[name].append(_in_a_process({"name": "m", "storage_uri": str(path), "task": task, **options}))
    medians = {
        name: {key: median(figure[key] for figure in measured) for key in ("memory", "seconds")}
        for name, measured in figures.items()
    }
    plain = medians["float32"]
    for name, figure in medians.items():
        memory, seconds = figure["memory"] / plain["memory"], figure["seconds"] / plain["seconds"]
        yield (
            f"| {task} | {name} | {figure['memory'] / 2**20:.0f} | {memory:.2f} | {figure['seconds']:.3f} | "
            f"{seconds:.2f} |"
        )


def _in_a_process(settings: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.quantization", "--one", json.dumps(settings)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _measure(settings: ModelSettings) -> dict[str, float]:
    """Measure the model's bytes and the seconds of one item, in this process."""
    from hf_runtime.contract.item import Item
    from runners.models.memory import trim_heap
    from runners.models.pretrained import prepare_torch
    from runners.registry import create_runner

    prepare_torch(settings)
    runner = create_runner(settings)
    if settings.load_in_8bit or settings.load_in_4bit:
        import bitsandbytes  # noqa: F401  # its code is not the model's memory
    before = psutil.Process().memory_info().rss
    runner.load()
    # Weights are read from the file at their first use.
    runner.predict([Item("A text.", {"max_new_tokens": 2} if settings.task == "text-generation" else {})])
    trim_heap()
    memory = psutil.Process().memory_info().rss - before
    item = Item(_TEXT, {"max_new_tokens": 16} if settings.task == "text-generation" else {})
    seconds = []
    for _ in range(5):
        started = monotonic()
        runner.predict([item])
        seconds.append(monotonic() - started)
    return {"memory": memory, "seconds": median(seconds)}


if __name__ == "__main__":
    main()

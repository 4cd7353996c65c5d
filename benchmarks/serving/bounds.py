"""Computation of the same model without a server, in child processes that take turns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.children import Worker
from benchmarks.processes import used_seconds
from benchmarks.serving.workloads import NEW_TOKENS, Workload

#: Texts that are computed together, and one by one.
_TEXTS, _ALONE = 256, 57

#: Prompts that are continued one by one.
_PROMPTS_ALONE = 4


class Offline(ABC):
    """Computation of a workload's texts without a server.

    Attributes:
        key: its name in results.
        worker: its process.
    """

    def __init__(self, key: str, worker: Worker) -> None:
        self.key = key
        self.worker = worker

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in the table."""

    @abstractmethod
    def load(self, texts: Sequence[str]) -> None:
        """Load the model and warm up with texts."""

    @abstractmethod
    def answers(self, texts: Sequence[str]) -> list[Any]:
        """Return the answers in the form of `Peer.check`."""

    @abstractmethod
    def measure(self, texts: Sequence[str]) -> dict[str, float]:
        """Measure texts per second, the milliseconds of a single text, and the CPU time per text."""

    def _cost(self, texts: int, compute: Callable[[], float]) -> dict[str, float]:
        before = self.worker.cpu_seconds()
        seconds = compute()
        cpu = used_seconds(before, self.worker.cpu_seconds())
        return {"requests_per_second": texts / seconds, "cpu_ms": 1000 * cpu / texts}


class EncodersOffline(Offline):
    """Plain transformers, or our engine, on classification or embedding."""

    _facts: dict[str, Any]

    @property
    def name(self) -> str:
        if self.key == "engine":
            return "our engine without a server"
        dtype = "".join(f", {dtype}" for dtype in self.key.split("-")[1:])
        return f"plain transformers{dtype}, sorted batches of {self._facts['batch_size']}"

    def load(self, texts: Sequence[str]) -> None:
        self._facts = self._ask("load", texts[:64])

    def answers(self, texts: Sequence[str]) -> list[Any]:
        answers: list[Any] = self._ask("answers", texts)["answers"]
        return answers

    def measure(self, texts: Sequence[str]) -> dict[str, float]:
        alone = self._ask("alone", texts[:_ALONE])["seconds"]
        together = self._cost(_TEXTS, lambda: sum(self._ask("seconds", texts[:_TEXTS])["seconds"]))
        return {**together, "p50_ms": 1000 * median(alone)}

    def _ask(self, want: str, texts: Sequence[str]) -> dict[str, Any]:
        return self.worker.ask({"want": want, "texts": list(texts)})


class GenerationOffline(Offline):
    """`model.generate` prompt by prompt, or our engine with one prompt per client in parallel."""

    def __init__(self, key: str, worker: Worker, prompts: int) -> None:
        super().__init__(key, worker)
        self._prompts = prompts

    @property
    def name(self) -> str:
        if self.key == "engine":
            return f"our engine without a server, {self._prompts} at once"
        weights = ", our packed weights" if self.worker.facts["device"] == "cpu" else ""
        return f"model.generate, one by one{weights}"

    def load(self, texts: Sequence[str]) -> None:
        self._ask(texts[:2])

    def answers(self, texts: Sequence[str]) -> list[Any]:
        return [(text, NEW_TOKENS) for text in self._ask(texts)["texts"]]

    def measure(self, texts: Sequence[str]) -> dict[str, float]:
        alone = [self._ask([text])["seconds"] for text in texts[:_PROMPTS_ALONE]]
        figures = {"p50_ms": 1000 * median(alone), "requests_per_second": len(alone) / sum(alone)}
        if self.key == "engine":
            prompts = texts[_PROMPTS_ALONE : _PROMPTS_ALONE + self._prompts]
            figures |= self._cost(self._prompts, lambda: float(self._ask(prompts)["seconds"]))
        return {**figures, "tokens_per_second": NEW_TOKENS * figures["requests_per_second"]}

    def _ask(self, texts: Sequence[str]) -> dict[str, Any]:
        return self.worker.ask([(text, NEW_TOKENS) for text in texts])


def offline(workload: Workload, model: Path, threads: int, on_gpu: bool) -> list[Offline]:
    """Start the computations without a server for a workload; they are not loaded yet.

    The first one's answers are the reference for the servers.
    """
    if workload.generates:
        kinds = {"transformers": "sequential", "engine": "offline"}
        most = workload.connections[-1]
        return [GenerationOffline(key, Worker(kind, str(model), threads), most) for key, kind in kinds.items()]
    module = "benchmarks.serving.encoders"
    kinds = {key: f"{key}:{workload.task}" for key in ("transformers", "engine")}
    if on_gpu:
        kinds["transformers-bfloat16"] = f"transformers:{workload.task}:bfloat16"
    return [EncodersOffline(key, Worker(kind, str(model), threads, module)) for key, kind in kinds.items()]


def bound_key(workload: Workload) -> str:
    """Return the key of the bound.

    For generation it is the engine, as `model.generate` does not batch requests as they arrive.
    """
    return "engine" if workload.generates else "transformers"

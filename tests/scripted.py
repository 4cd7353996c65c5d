"""Runner without a model; answers are scripted, and its forward pass waits on request."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.parameters import Parameters
from hf_runtime.settings import ModelSettings
from runners.engines.rows import BatchLimits, Parallelism, Row
from runners.engines.runner import Job, Runner


class ScriptedParameters(Parameters):
    times: int = 1


class ScriptedRunner(Runner[ScriptedParameters, str, int, str]):
    """Runner that answers a string in capitals, `times` over.

    A comma splits an instance into rows. The text `bad` is refused, `crash` fails in the forward pass, `break` breaks
    the device that computes it, `bug` fails in finishing. While `gate` is not set, the forward pass waits; `entered` is
    set once the pass is reached.
    """

    parameters_type = ScriptedParameters
    example = "example"

    def __init__(self, max_rows: int = 4, max_tokens: int = 1000, parallelism: Parallelism | None = None) -> None:
        super().__init__(ModelSettings(storage_uri="nowhere", task="text-classification"))
        self._limits = BatchLimits(max_rows, max_tokens)
        self._parallelism = parallelism or Parallelism()
        #: Numbers of threads that were requested, with the requesting thread.
        self.threads: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[str]] = []
        #: Rows that fit into memory; None is any number.
        self.memory_for: int | None = None

    def load(self) -> None:
        pass

    @property
    def limits(self) -> BatchLimits:
        return self._limits

    @property
    def parallelism(self) -> Parallelism:
        return self._parallelism

    def set_thread_count(self, number: int) -> None:
        self.threads.append((threading.current_thread().name, number))

    def prepare(self, instance: Any, parameters: ScriptedParameters) -> Job[str, int]:
        if instance == "bad":
            raise InvalidRequest("is bad")
        return Job([Row(part, len(part)) for part in instance.split(",")], parameters.times)

    def forward(self, rows: Sequence[Row[str]]) -> Sequence[str]:
        self.entered.set()
        assert self.gate.wait(30), "the test forgot to open the gate"
        self.batches.append([row.inputs for row in rows])
        if any(row.inputs == "crash" for row in rows):
            raise RuntimeError("crashed")
        if any(row.inputs == "break" for row in rows):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if self.memory_for is not None and len(rows) > self.memory_for:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [row.inputs.upper() for row in rows]

    def finish(self, job: Job[str, int], outputs: Sequence[str]) -> Any:
        if outputs[0] == "BUG":
            raise RuntimeError("a bug")
        return ",".join(outputs) * job.context

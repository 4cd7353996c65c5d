"""Specification of a task: all that is known of it without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_runtime.contract.parameters import Parameters
from hf_runtime.contract.signature import TEXT_TO_JSON, Signature


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What protocols, settings and documentation read of a task; `runners/tasks/<name>.py` computes it.

    Attributes:
        name: name in the settings and in every protocol, such as `fill-mask`.
        instance: type of an instance, as pydantic reads types.
        answer: type of the answer to an instance.
        parameters: parameters of a request.
        example: V1 request that a model of the task answers.
        signature: instances and answers as named tensors; a model may refine it.
        generative: true for a task whose models generate token by token, and stream.
        heads: endings of `architectures` in config.json that are made for the task.
        adapter_type: `task_type` of its adapters in the peft library.
        kserve_names: further names of the task in KServe's `--task`.
    """

    name: str
    instance: Any
    answer: Any
    parameters: type[Parameters]
    example: Mapping[str, Any]
    signature: Signature = TEXT_TO_JSON
    generative: bool = False
    heads: tuple[str, ...] = ()
    adapter_type: str | None = None
    kserve_names: tuple[str, ...] = field(default=())

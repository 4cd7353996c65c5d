"""Specification of a task, which does not depend on a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_runtime.contract.parameters import Parameters
from hf_runtime.contract.signature import TEXT_TO_JSON, Signature


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Specification of a task for protocols, settings and documentation.

    `runners/tasks/<name>.py` computes the task.

    Attributes:
        name: name in the settings and in every protocol, such as `fill-mask`.
        instance: type of an instance, as an annotation for pydantic.
        answer: type of the answer to an instance.
        parameters: parameters of a request.
        example: V1 request that a model of the task answers.
        signature: instances and answers as named tensors; a model may refine it.
        generative: true for a task whose models generate token by token and can stream.
        heads: endings of the names in `architectures` of config.json that belong to the task.
        adapter_type: `task_type` of its adapters in the peft library.
        kserve_names: other names of the task in KServe's `--task`.
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
    kserve_names: tuple[str, ...] = ()

"""What was measured, kept in a file, so that a model that starts again need not measure."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from pydantic import TypeAdapter, ValidationError
from transformers import PreTrainedModel

from hf_runtime.atomic_write import write_whole
from hf_runtime.settings import ModelSettings
from hf_runtime.version import __version__
from runners.kernels.cores import cpu_name

logger = logging.getLogger(__name__)

PlanT = TypeVar("PlanT")


def model_key(model: PreTrainedModel, settings: ModelSettings) -> dict[str, Any]:
    """What of a model its speed depends on."""
    return {
        "class": type(model).__name__,
        "config": model.config.to_json_string(use_diff=False),
        "dtype": str(model.dtype),
        "options": settings.model_dump(include={"quantization", "load_in_8bit", "load_in_4bit", "acceleration"}),
    }


class PlanCache:
    """Plans by what they depend on.

    Args:
        folder: is made when the first plan is kept; one that cannot be written to keeps nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser() / "calibration"

    def find_or_measure(
        self, kind: type[PlanT], key: Mapping[str, Any], measure: Callable[[], PlanT | None]
    ) -> PlanT | None:
        """Return the plan that was kept, or else measure one and keep it; None if nothing could be measured.

        Raises:
            ValidationError: a plan that was measured is none that batches can be made by.
        """
        plan = self.find(kind, key)
        if plan is None and (plan := measure()) is not None:
            adapter = TypeAdapter(kind)
            adapter.validate_json(adapter.dump_json(plan))
            self.keep(plan, key)
        return plan

    def find(self, kind: type[PlanT], key: Mapping[str, Any]) -> PlanT | None:
        """The plan that was kept for exactly this key, by this version, on a machine like this one."""
        file = self._file(kind, key)
        try:
            return TypeAdapter(kind).validate_json(file.read_bytes())
        except (OSError, ValidationError):
            logger.debug("no plan in %s", file)
            return None

    def keep(self, plan: Any, key: Mapping[str, Any]) -> None:
        """Write a plan down, whole or not at all."""
        file = self._file(type(plan), key)
        try:
            write_whole(file, TypeAdapter(type(plan)).dump_json(plan))
        except OSError as error:
            logger.debug("the plan is not kept: %s", error)

    def _file(self, kind: type[Any], key: Mapping[str, Any]) -> Path:
        everything = {
            **key,
            "kind": kind.__name__,
            "version": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "processor": _processor(),
        }
        text = json.dumps(everything, sort_keys=True, default=str)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _processor() -> str:
    """The name of what computes."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return cpu_name()

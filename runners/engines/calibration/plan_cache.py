"""Cache of calibration plans on disk, so that a restarted model need not be measured again."""

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

from hf_runtime.atomic_write import write_atomically
from hf_runtime.settings import ModelSettings
from hf_runtime.version import __version__
from runners.kernels.cores import read_cpu_name

logger = logging.getLogger(__name__)

PlanT = TypeVar("PlanT")

#: Version of the plans' fields. Increase it when a field is renamed, because a stored plan without the new field would
#: silently get the default.
_FORMAT = 2


def model_key(model: PreTrainedModel, settings: ModelSettings) -> dict[str, Any]:
    """Return the properties of a model that its speed depends on."""
    return {
        "class": type(model).__name__,
        "config": model.config.to_json_string(use_diff=False),
        "dtype": str(model.dtype),
        "options": settings.model_dump(include={"quantization", "load_in_8bit", "load_in_4bit", "acceleration"}),
    }


class PlanCache:
    """Cache of plans in files, by a key of everything that a plan depends on.

    Args:
        folder: parent of the cache folder, which is created when the first plan is stored. If it is not writable,
            nothing is stored.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser() / "calibration"

    def find_or_measure(
        self, kind: type[PlanT], key: Mapping[str, Any], measure: Callable[[], PlanT | None]
    ) -> PlanT | None:
        """Return the cached plan, or measure and store one; None if nothing could be measured.

        Args:
            kind: type of the plan.
            key: everything that the plan depends on, apart from versions and the processor.

        Raises:
            ValidationError: the measured plan is invalid, for example without rows.
        """
        plan = self.find(kind, key)
        if plan is None and (plan := measure()) is not None:
            adapter = TypeAdapter(kind)
            adapter.validate_json(adapter.dump_json(plan))
            self.store(plan, key)
        return plan

    def find(self, kind: type[PlanT], key: Mapping[str, Any]) -> PlanT | None:
        """Return the plan that this version stored for this key and processor, or None."""
        file = self._path_for(kind, key)
        try:
            return TypeAdapter(kind).validate_json(file.read_bytes())
        except (OSError, ValidationError):
            logger.debug("no valid calibration plan in %s", file)
            return None

    def store(self, plan: Any, key: Mapping[str, Any]) -> None:
        """Store a plan atomically; an error of the file system is logged only."""
        file = self._path_for(type(plan), key)
        try:
            write_atomically(file, TypeAdapter(type(plan)).dump_json(plan))
        except OSError as error:
            logger.debug("calibration plan not stored: %s", error)

    def _path_for(self, kind: type[Any], key: Mapping[str, Any]) -> Path:
        full_key = {
            **key,
            "format": _FORMAT,
            "kind": kind.__name__,
            "version": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "processor": _processor(),
        }
        text = json.dumps(full_key, sort_keys=True, default=str)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _processor() -> str:
    """Return the name of the GPU or the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return read_cpu_name()

"""Precisions that an operator can choose on a device, with their environment variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_runtime.settings import ModelSettings
from runners.kernels.instructions import supports_bfloat16, supports_int8

#: Defaults for the model's own precision settings. Calibration is off, because it would not pay off for one trial.
_DEFAULTS: Mapping[str, Any] = {
    "torch_dtype": None, "load_in_8bit": False, "load_in_4bit": False, "quantization": None, "calibration_seconds": 0.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Precision:
    """Numeric precision in which a model can be computed.

    Attributes:
        variable: environment variable with the value that selects it.
        changes: the corresponding fields of ModelSettings.
        lacks: returns why this machine should not use it; None if it may.
    """

    name: str
    variable: str
    changes: Mapping[str, Any]
    lacks: Callable[[], str | None] = lambda: None

    def applied(self, settings: ModelSettings) -> ModelSettings:
        """Return a model's settings with this precision instead of its own."""
        return settings.model_copy(update={**_DEFAULTS, **self.changes})


def device() -> str:
    """Return the device that computes models on this machine: `cuda` or `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _cpu_lacks_bfloat16() -> str | None:
    return None if supports_bfloat16() else "this CPU has no instructions for it"


def _cpu_lacks_int8() -> str | None:
    return None if supports_int8() else "this CPU has no instructions for it (VNNI)"


def _gpu_lacks_bfloat16() -> str | None:
    return None if torch.cuda.is_bf16_supported(including_emulation=False) else "this GPU has no instructions for it"


FLOAT32 = Precision("float32", "TORCH_DTYPE=float32", {"torch_dtype": "float32"})

FASTER: Mapping[str, Sequence[Precision]] = {
    "cpu": (
        Precision("bfloat16", "TORCH_DTYPE=bfloat16", {"torch_dtype": "bfloat16"}, _cpu_lacks_bfloat16),
        Precision("int8", "QUANTIZATION=int8", {"quantization": "int8"}, _cpu_lacks_int8),
    ),
    "cuda": (
        Precision("float16", "TORCH_DTYPE=float16", {"torch_dtype": "float16"}),
        Precision("bfloat16", "TORCH_DTYPE=bfloat16", {"torch_dtype": "bfloat16"}, _gpu_lacks_bfloat16),
        Precision("8 bit", "LOAD_IN_8BIT=true", {"load_in_8bit": True}),
    ),
}

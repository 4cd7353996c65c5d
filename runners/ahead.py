"""What can begin before a runner is imported, which takes seconds: its model is fetched, and kernels are compiled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loading.architecture import resolve_task
from loading.compiling import compiler_for
from loading.custom_code import allowed_pipeline
from loading.storage import fetch
from settings import WRITING_TASKS, ModelSettings

if TYPE_CHECKING:
    from acceleration.compiler import Compiler

#: What drivers of NVIDIA's and AMD's GPUs make.
_GPUS = Path("/dev/nvidiactl"), Path("/dev/kfd")


def begin(settings: ModelSettings) -> Compiler | None:
    """Fetch a model and begin to compile its kernels.

    Returns:
        The compiler; None if it is not known by now that the model computes with kernels.

    Raises:
        LoadError: the model cannot be fetched, or its task is not known.
    """
    if allowed_pipeline(settings) is not None:
        return None
    settings = resolve_task(settings)
    gpu = any(device.exists() for device in _GPUS)
    return compiler_for(fetch(settings), settings, reads_batches=settings.task not in WRITING_TASKS, gpu=gpu)

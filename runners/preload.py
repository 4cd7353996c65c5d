"""Fetching of a model and compilation of its kernels, while the runner is imported.

The import takes seconds.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hf_runtime.contract.errors import LoadError
from hf_runtime.contract.tasks import GENERATIVE_TASKS
from hf_runtime.settings import ModelSettings
from runners.models.architecture import resolve_task
from runners.models.compiling import start_compiler
from runners.storage.custom_code import find_allowed_pipeline
from runners.storage.fetch import fetch

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler

logger = logging.getLogger(__name__)

#: Device files of the NVIDIA and AMD drivers.
_GPU_DEVICES = Path("/dev/nvidiactl"), Path("/dev/kfd")


def preload_model(settings: ModelSettings) -> Compiler | None:
    """Fetch a model and start to compile its kernels.

    Returns:
        The compiler; None if it is not known yet whether the model uses kernels.

    Raises:
        LoadError: the model cannot be fetched, or its task is unknown.
    """
    if find_allowed_pipeline(settings) is not None:
        return None
    settings = resolve_task(settings)
    gpu = any(device.exists() for device in _GPU_DEVICES)
    checkpoint = fetch(settings)
    try:
        return start_compiler(checkpoint, settings, reads_batches=settings.task not in GENERATIVE_TASKS, gpu=gpu)
    except LoadError:
        raise
    except Exception:
        # Loading the model tries again and reports a failure.
        logger.debug("Model %s: compiling kernels ahead of loading failed", settings.name, exc_info=True)
        return None

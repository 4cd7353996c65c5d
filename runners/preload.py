"""What can begin before a runner is imported, which takes seconds: its model is fetched, and kernels are compiled."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hf_runtime.contract.errors import LoadError
from hf_runtime.contract.tasks import GENERATIVE_TASKS
from hf_runtime.settings import ModelSettings
from runners.models.architecture import resolve_task
from runners.models.compiling import compiler_for
from runners.storage.custom_code import allowed_pipeline
from runners.storage.fetch import fetch

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler

logger = logging.getLogger(__name__)

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
    checkpoint = fetch(settings)
    try:
        return compiler_for(checkpoint, settings, reads_batches=settings.task not in GENERATIVE_TASKS, gpu=gpu)
    except LoadError:
        raise
    except Exception:
        # It is tried again while the model is loaded, where a failure is reported.
        logger.debug("compiling kernels did not begin", exc_info=True)
        return None

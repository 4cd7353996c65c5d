"""Start of a model: load it and warm it up, without optimizations if they fail."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.settings import ModelSettings
from runners.engines.runner import Runner
from runners.kernels.fallbacks import Optimization, describe_error
from runners.registry import create_runner

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler

logger = logging.getLogger(__name__)


def start_runner(settings: ModelSettings, compiler: Compiler | None = None) -> Runner[Any, Any, Any, Any]:
    """Create a model's runner, load the model and warm it up.

    If an optimization raises an error that no fallback catches, the model is loaded again without optimizations.

    Args:
        compiler: compiler of the model's kernels, if it has been started already.

    Raises:
        LoadError: the model cannot be loaded.
        Exception: loading fails without optimizations too.
    """
    try:
        return _start(settings, compiler)
    except (LoadError, InvalidRequest):
        raise
    except Exception as error:
        if not settings.acceleration:
            raise
        logger.debug("%s failed", Optimization.ALL.description, exc_info=True)
        reason = describe_error(error)
    # Outside the except block, nothing refers to the first runner but its own reference cycles.
    from runners.models.memory import release_dropped_model

    release_dropped_model()
    runner = _start(settings.model_copy(update={"acceleration": False}), None)
    runner.fallbacks.report(Optimization.ALL, reason)
    return runner


def _start(settings: ModelSettings, compiler: Compiler | None) -> Runner[Any, Any, Any, Any]:
    runner = create_runner(settings, compiler)
    runner.load()
    try:
        runner.warm_up()
    except InvalidRequest as error:
        # The model's maximum length may be too small for any example; requests get the same error.
        logger.warning("Model %s is served without a warm-up, because it refused the example: %s", settings.name, error)
    return runner

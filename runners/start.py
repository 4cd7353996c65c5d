"""Start a model: load it and have it answer an example; plain, if that fails with optimizations."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.settings import ModelSettings
from runners.engines.runner import Runner
from runners.kernels.fallbacks import Optimization, reason_of
from runners.registry import create_runner

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler

logger = logging.getLogger(__name__)


def start_runner(settings: ModelSettings, compiler: Compiler | None = None) -> Runner[Any, Any, Any, Any]:
    """Create a model's runner, load the model and warm it up.

    Whatever an optimization raises that is not caught where it is made, the model is loaded again without any.

    Args:
        compiler: that of the model's kernels, if it is at work already.

    Raises:
        LoadError: the model cannot be loaded.
        Exception: it fails without optimizations too.
    """
    try:
        return _start(settings, compiler)
    except (LoadError, InvalidRequest):
        raise
    except Exception as error:
        if not settings.acceleration:
            raise
        logger.debug("%s failed", Optimization.ALL.doing, exc_info=True)
        reason = reason_of(error)
    # Out here nothing of the first one is left but what refers to itself.
    from runners.models.memory import give_back_dropped

    give_back_dropped()
    runner = _start(settings.model_copy(update={"acceleration": False}), None)
    runner.fallbacks.report(Optimization.ALL, reason)
    return runner


def _start(settings: ModelSettings, compiler: Compiler | None) -> Runner[Any, Any, Any, Any]:
    runner = create_runner(settings, compiler)
    runner.load()
    try:
        runner.warm_up()
    except InvalidRequest as error:
        # It may read so few tokens that nothing fits. Who asks is told so.
        logger.warning("%s is served without having answered an example: %s", settings.name, error)
    return runner

"""The compiler of a model's kernels, at work before the model is loaded, and before PyTorch is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_runtime.settings import ModelSettings
from runners.storage.checkpoint import Checkpoint, local_config

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler


def compiler_for(checkpoint: Checkpoint, settings: ModelSettings, *, reads_batches: bool, gpu: bool) -> Compiler | None:
    """A compiler that has begun with what models of such a kind compute with on a CPU.

    Args:
        reads_batches: the model does not write token by token.
        gpu: there is one, which will compute.

    Returns:
        None for a model that computes without kernels of our own.

    Raises:
        LoadError: config.json is damaged.
    """
    if gpu or not settings.acceleration or settings.device_map is not None:
        return None
    # Imported here: LLVM is of no use to others.
    from runners.kernels.ahead import likely_sources
    from runners.kernels.compiler import Compiler

    compiler = Compiler(settings.storage_cache.expanduser() / "kernels")
    likely = likely_sources(
        local_config(checkpoint) or {},
        settings.torch_dtype or "float32",
        reads_batches=reads_batches,
        int8=settings.quantization == "int8",
    )
    # In one process: a second one's start costs two cores what it spares them.
    compiler.start(likely)
    return compiler

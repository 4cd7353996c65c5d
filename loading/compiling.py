"""The compiler of a model's kernels, at work before the model is loaded, and before PyTorch is."""

from __future__ import annotations

from acceleration.ahead import likely_sources
from acceleration.compiler import Compiler
from loading.checkpoint import Checkpoint, local_config
from settings import ModelSettings


def compiler_for(checkpoint: Checkpoint, settings: ModelSettings, *, reads_batches: bool) -> Compiler:
    """A compiler that has begun with what models of such a kind compute with on a CPU.

    Args:
        reads_batches: the model does not write token by token.

    Raises:
        LoadError: config.json is damaged.
    """
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

"""Start compiling a model's kernels before the model and PyTorch are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_runtime.settings import ModelSettings
from runners.storage.checkpoint import Checkpoint, read_local_config

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler


def start_compiler(
    checkpoint: Checkpoint, settings: ModelSettings, *, reads_batches: bool, gpu: bool
) -> Compiler | None:
    """Start and return a compiler for the kernels that this model probably uses on a CPU.

    Args:
        reads_batches: the model does not generate token by token.
        gpu: there is a GPU, and it will compute.

    Returns:
        None for a model that computes without kernels of this server.

    Raises:
        LoadError: config.json is damaged.
    """
    if gpu or not settings.acceleration or settings.device_map is not None:
        return None
    # Imported here: other models do not need LLVM.
    from runners.kernels.compiler import Compiler
    from runners.kernels.kernel_prediction import predict_sources

    compiler = Compiler(settings.storage_cache.expanduser() / "kernels")
    sources = predict_sources(
        read_local_config(checkpoint) or {},
        settings.torch_dtype or "float32",
        reads_batches=reads_batches,
        int8=settings.quantization == "int8",
    )
    # One process: on two cores a second one costs as much time to start as it saves.
    compiler.start_compiling(sources)
    return compiler

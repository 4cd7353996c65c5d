"""Choice of the decoder for a model, and of the memory and batch limits it gets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from hf_runtime.settings import ModelSettings
from runners.engines.calibration.plan_cache import PlanCache, model_key
from runners.engines.calibration.steps import CPU_ROWS, CPU_TOKENS, GPU_ROWS, GPU_TOKENS, StepPlan, calibrate_steps
from runners.engines.generate.attention import UnsupportedAttention
from runners.engines.generate.cache import KVCache, LayerShape
from runners.engines.generate.continuous import ContinuousDecoder
from runners.engines.generate.decoder import Decoder
from runners.engines.generate.incremental_model import IncrementalModel
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.static import StaticDecoder
from runners.engines.generate.trial import TrialSteps
from runners.engines.rows import BatchLimits
from runners.kernels.fallbacks import Fallbacks, Optimization
from runners.models.memory import measure_free_memory

logger = logging.getLogger(__name__)

#: Share of the memory that is free after loading for keys and values, unless KV_CACHE_MEMORY sets their size.
_CPU_SHARE, _GPU_SHARE = 0.25, 0.85


def create_decoder(model: GenerationModel, settings: ModelSettings, fallbacks: Fallbacks) -> Decoder:
    """Create a decoder with continuous batching if the model allows it, else a static one.

    Args:
        fallbacks: record optimizations that fail.
    """
    gpu = model.device.type == "cuda"
    # A step reads all weights once for any number of rows, so that batching pays off on a CPU too.
    rows = settings.max_batch_size or (128 if gpu else 16)
    incremental = _create_incremental_model(model, settings, fallbacks)
    if incremental is None:
        return StaticDecoder(model, BatchLimits(rows, settings.max_batch_tokens or (32768 if gpu else 4096)))
    max_length = model.context or 1 << 20
    budget = _compute_budget(incremental.layers, model.device, settings)
    # Step time grows with its tokens, and every running sequence waits for the step.
    default = StepPlan(rows, settings.max_batch_tokens or (2048 if gpu else 64))
    plan = None
    with fallbacks.guard(Optimization.CALIBRATION):
        plan = _calibrate(model, incremental, default, budget, settings)
    plan = plan or default
    rows, tokens = settings.max_batch_size or plan.rows, settings.max_batch_tokens or plan.tokens
    cache = KVCache(
        incremental.layers,
        budget=budget,
        slab_tokens=rows * 256,
        max_rows=rows,
        max_length=max_length,
    )
    logger.info("%s: up to %d concurrent sequences, %d tokens in the KV cache.", settings.name, rows, cache.budget)
    return ContinuousDecoder(model, incremental, cache, BatchLimits(rows, max(tokens, rows + 1)))


def _create_incremental_model(
    model: GenerationModel, settings: ModelSettings, fallbacks: Fallbacks
) -> IncrementalModel | None:
    """Prepare a model for continuous batching; return None if it does not support it."""
    options: dict[str, Any] = {
        "graphs": settings.acceleration, "max_logits": settings.max_batch_size or max(GPU_ROWS)
    }  # fmt: skip
    try:
        if model.seq2seq:
            raise UnsupportedAttention("it is an encoder-decoder model")
        if model.beams > 1:
            raise UnsupportedAttention("it uses beam search")
        if model.kernels is not None:
            with fallbacks.guard(Optimization.ATTENTION, refusals=(UnsupportedAttention,)):
                return IncrementalModel(model, fallbacks, kernels=model.kernels, **options)
        with fallbacks.guard(Optimization.CONTINUOUS, refusals=(UnsupportedAttention,)):
            return IncrementalModel(model, fallbacks, **options)
    except UnsupportedAttention as reason:
        logger.info("%s: continuous batching is not available, static batches are used: %s.", settings.name, reason)
    return None


def _calibrate(
    model: GenerationModel, incremental: IncrementalModel, default: StepPlan, budget: int, settings: ModelSettings
) -> StepPlan | None:
    """Return the best step sizes on this machine, from the plan cache or measured now."""
    if not settings.calibration_seconds or (settings.max_batch_size and settings.max_batch_tokens):
        return None
    cpu = model.device.type == "cpu"
    cores = torch.get_num_threads() if cpu else None
    rows, tokens = (CPU_ROWS, CPU_TOKENS) if cpu else (GPU_ROWS, GPU_TOKENS)
    # The trial must take little of the memory that the cache will have.
    trial = TrialSteps(incremental, context=model.context, budget=budget // 4)
    candidates = {
        "rows": sorted({n for n in (*rows, default.rows) if n <= trial.rows}),
        "tokens": sorted({n for n in (*tokens, default.tokens) if n <= trial.tokens}),
    }
    key = {**model_key(model.model, settings), **candidates, "cores": cores, "graphs": incremental.has_graphs}
    measure = partial(
        calibrate_steps, trial.compute, default, **candidates, seconds=settings.calibration_seconds, cores=cores
    )
    return PlanCache(settings.storage_cache).find_or_measure(StepPlan, key, measure)


def _compute_budget(layers: Sequence[LayerShape], device: torch.device, settings: ModelSettings) -> int:
    """Return the number of tokens whose keys and values fit the memory for them."""
    if settings.kv_cache_memory is not None:
        memory = float(settings.kv_cache_memory)
    elif device.type == "cuda":
        memory = _GPU_SHARE * sum(torch.cuda.mem_get_info(gpu)[0] for gpu in {layer.device for layer in layers})
    else:
        memory = _CPU_SHARE * measure_free_memory(settings.memory_limit)
    return max(int(memory / sum(layer.token_bytes for layer in layers)), 256)

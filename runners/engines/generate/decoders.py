"""Which decoder writes with a model, and how much memory it may take."""

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
from runners.models.memory import free_memory

logger = logging.getLogger(__name__)

#: Of the memory that is free once the model is loaded, what keys and values may take unless KV_CACHE_MEMORY says it.
_CPU_SHARE, _GPU_SHARE = 0.25, 0.85


def create_decoder(model: GenerationModel, settings: ModelSettings, fallbacks: Fallbacks) -> Decoder:
    """Create the decoder of continuous batching where the model allows it, else of batches that start together.

    Args:
        fallbacks: are told of optimizations that fail.
    """
    gpu = model.device.type == "cuda"
    # A step reads all weights, for one row as for many: unlike an encoder, a CPU too gains by company.
    rows = settings.max_batch_size or (128 if gpu else 16)
    stepping = _stepping(model, settings, fallbacks)
    if stepping is None:
        return StaticDecoder(model, BatchLimits(rows, settings.max_batch_tokens or (32768 if gpu else 4096)))
    longest = model.context or 1 << 20
    budget = _budget(stepping.layers, model.device, settings)
    # A step is as long as its tokens are many, and all that are written wait for it.
    usual = StepPlan(rows, settings.max_batch_tokens or (2048 if gpu else 64))
    plan = None
    with fallbacks.guard(Optimization.CALIBRATION):
        plan = _calibrated(model, stepping, usual, budget, settings)
    plan = plan or usual
    rows, tokens = settings.max_batch_size or plan.rows, settings.max_batch_tokens or plan.tokens
    cache = KVCache(
        stepping.layers,
        budget=budget,
        slab_tokens=rows * 256,
        max_rows=rows,
        longest=longest,
    )
    logger.info("%s: up to %d sequences at once, %d tokens in memory.", settings.name, rows, cache.budget)
    return ContinuousDecoder(model, stepping, cache, BatchLimits(rows, max(tokens, rows + 1)))


def _stepping(model: GenerationModel, settings: ModelSettings, fallbacks: Fallbacks) -> IncrementalModel | None:
    """Prepare a model for continuous batching; None if it cannot be computed so."""
    options: dict[str, Any] = {
        "graphs": settings.acceleration, "most_wanted": settings.max_batch_size or max(GPU_ROWS)
    }  # fmt: skip
    try:
        if model.seq2seq:
            raise UnsupportedAttention("it reads a source")
        if model.beams > 1:
            raise UnsupportedAttention("it searches with beams")
        if model.kernels is not None:
            with fallbacks.guard(Optimization.ATTENTION, refusals=(UnsupportedAttention,)):
                return IncrementalModel(model, fallbacks, kernels=model.kernels, **options)
        with fallbacks.guard(Optimization.CONTINUOUS, refusals=(UnsupportedAttention,)):
            return IncrementalModel(model, fallbacks, **options)
    except UnsupportedAttention as reason:
        logger.info("%s: sequences are written in batches that start together: %s.", settings.name, reason)
    return None


def _calibrated(
    model: GenerationModel, stepping: IncrementalModel, usual: StepPlan, budget: int, settings: ModelSettings
) -> StepPlan | None:
    """What a step is best made of here, as kept from an earlier start or measured now."""
    if not settings.calibration_seconds or (settings.max_batch_size and settings.max_batch_tokens):
        return None
    cpu = model.device.type == "cpu"
    cores = torch.get_num_threads() if cpu else None
    rows, tokens = (CPU_ROWS, CPU_TOKENS) if cpu else (GPU_ROWS, GPU_TOKENS)
    # What is tried must be small beside what is there.
    trial = TrialSteps(stepping, context=model.context, budget=budget // 4)
    tried = {
        "rows": sorted({n for n in (*rows, usual.rows) if n <= trial.rows}),
        "tokens": sorted({n for n in (*tokens, usual.tokens) if n <= trial.tokens}),
    }
    key = {**model_key(model.model, settings), **tried, "cores": cores, "graphs": stepping.has_graphs}
    measure = partial(calibrate_steps, trial.compute, usual, **tried, seconds=settings.calibration_seconds, cores=cores)
    return PlanCache(settings.storage_cache).find_or_measure(StepPlan, key, measure)


def _budget(layers: Sequence[LayerShape], device: torch.device, settings: ModelSettings) -> int:
    """Tokens whose keys and values may be in memory."""
    if settings.kv_cache_memory is not None:
        memory = float(settings.kv_cache_memory)
    elif device.type == "cuda":
        memory = _GPU_SHARE * sum(torch.cuda.mem_get_info(gpu)[0] for gpu in {layer.device for layer in layers})
    else:
        memory = _CPU_SHARE * free_memory(settings.memory_limit)
    return max(int(memory / sum(layer.token_bytes for layer in layers)), 256)

"""Load options to `from_pretrained`, and what a broken or foreign model raises there."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.kernels.allocator import keep_freed_memory, large_tensors_apart
from runners.kernels.cores import available_cores
from runners.kernels.fallbacks import Fallbacks, Optimization, OptimizationFailed, attempt
from runners.kernels.instructions import computes_int8, has_avx2
from runners.kernels.packed import Tiled
from runners.kernels.unpadded import without_padding
from runners.kernels.weights import speed_up_weights
from runners.models.adapter import Adapter, read_adapter
from runners.models.compiling import compiler_for
from runners.models.computed_weights import find_computed_weights
from runners.models.custom_code import warn_of_unused_pipeline
from runners.models.failures import make_load_error
from runners.models.gguf_files import cache_gguf_reads
from runners.models.lengths import reading_limit
from runners.models.memory import check_fits, dtype_name
from runners.models.quantization import quantization, release_files
from runners.models.vocabulary import known_tokens, missing_tokens
from runners.storage.checkpoint import Checkpoint
from runners.storage.fetch import fetch
from runners.storage.files import has_vocabulary
from runners.storage.source import UnreachableError

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler
    from runners.kernels.encoder_layers import EncoderLayers
    from runners.kernels.int8_kernels import Int8Kernels
    from runners.kernels.kernels import Kernels

logger = logging.getLogger(__name__)

#: Tokens that are computed together most: one text and a batch of them; one sequence, several, and some with prompts.
_BATCH_ROWS, _STEP_ROWS = (32, 256), (1, 16, 64)

#: Optimizations that change weights: where one has failed, they stay as they were loaded.
_CHANGE_WEIGHTS = frozenset(
    (Optimization.TRIAL, Optimization.MERGE, Optimization.INT8, Optimization.PACK, Optimization.FUSE)
)

_TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model in evaluation mode on its device, with its tokenizer.

    Attributes:
        max_length: tokens that the model can read at once, special tokens included; None if it has no limit.
        tokens: size of its input vocabulary; larger ids are out of the embedding's range.
        missing: tokens of the tokenizer that are out of that range, by id.
        unpadded: batches are computed without their padding.
        kernels: those that it computes with, if any.
        program: what computes all of its layers, where that is one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    tokens: int
    missing: Mapping[int, str]
    unpadded: bool = False
    kernels: Kernels | None = None
    program: EncoderLayers | None = None


def prepare_torch(settings: ModelSettings) -> None:
    """Settings that hold for the whole process of a runner."""
    transformers.logging.set_verbosity(transformers.logging.log_levels[settings.transformers_verbosity])
    if not sys.stderr.isatty():
        # A bar in a file is one line of a hundred thousand characters.
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(settings.torch_threads or available_cores(settings.cpus))
    keep_freed_memory()
    # cuDNN's attention is planned anew for each shape, and hardly two batches have the same: on an H200 that is most of
    # the time of a batch in bfloat16. The other fused kernels are as fast and take any shape.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if settings.gpus and not torch.cuda.is_available():
        logger.warning("%s: GPUS=%g, and there is no GPU here: the CPU computes.", settings.name, settings.gpus)
    if settings.cuda_memory_fraction is not None and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(settings.cuda_memory_fraction)


def load_pretrained(
    auto_class: Any,
    checkpoint: Checkpoint,
    settings: ModelSettings,
    begun: Compiler | None = None,
    *,
    new_head: bool = False,
    reads_batches: bool = False,
    fallbacks: Fallbacks | None = None,
) -> Pretrained:
    """Load model and tokenizer of a checkpoint; on a CPU, with weights in the form that it computes fastest with.

    An optimization that raises, or changes the model's results, is left out with a warning.

    Args:
        auto_class: the AutoModel class of the task.
        begun: the compiler of its kernels, if it is at work already.
        new_head: go on, with a warning, if the checkpoint has no weights for the task's head.
        reads_batches: the model will read batches that are padded on the right, and may compute them without that.
        fallbacks: are told of optimizations that fail.

    Raises:
        LoadError: one sentence for every failure that `from_pretrained` has.
    """
    warn_of_unused_pipeline(checkpoint.folder, settings)
    fallbacks = Fallbacks(settings.name) if fallbacks is None else fallbacks
    # With everything, then without what has failed: once without kernels, and once with the weights as they are.
    while True:
        try:
            with large_tensors_apart():
                return _load_optimized(auto_class, checkpoint, settings, new_head, reads_batches, begun, fallbacks)
        except OptimizationFailed as error:
            failed, reason = error.optimization, error.reason
        # Out here nothing of that attempt is left in memory.
        assert failed not in fallbacks.failed, f"this is a bug: {failed.doing} has failed before"
        fallbacks.report(failed, reason)


def _load_optimized(
    auto_class: Any,
    checkpoint: Checkpoint,
    settings: ModelSettings,
    new_head: bool,
    reads_batches: bool,
    begun: Compiler | None,
    fallbacks: Fallbacks,
) -> Pretrained:
    """Load a model with all optimizations but those that have failed.

    Raises:
        LoadError: it cannot be loaded.
        OptimizationFailed: a further one failed.
    """
    loaded = _load(auto_class, checkpoint, settings, new_head)
    # While its weights are exact: int8 would hide small differences behind its own.
    unpadded = reads_batches and _leaves_out_padding(loaded.model, settings, fallbacks)
    loaded = replace(loaded, unpadded=unpadded)
    int8 = settings.quantization == "int8"
    if int8:
        _check_int8(loaded.model, settings)
    if not (int8 or _accelerates(loaded.model, settings)) or not _CHANGE_WEIGHTS.isdisjoint(fallbacks.failed):
        return loaded
    compiler = kernels = tiled = int8_kernels = None
    if Optimization.KERNELS not in fallbacks.failed:
        with attempt(Optimization.KERNELS):
            gpu = torch.cuda.is_available()
            compiler = begun or compiler_for(checkpoint, settings, reads_batches=reads_batches, gpu=gpu)
            # Batches have so many rows that PyTorch's operations between layers are as fast.
            kernels = None if reads_batches else _kernels(loaded.model, compiler)
            tiled = _tiled(loaded.model, compiler)
            int8_kernels = _int8_kernels(compiler) if int8 else None
    rows = _BATCH_ROWS if reads_batches else _STEP_ROWS
    speed_up_weights(loaded.model, rows=rows, int8=int8, kernels=kernels, tiled=tiled, int8_kernels=int8_kernels)
    release_files(loaded.model)
    # In bfloat16 layers are PyTorch's, and 32 texts of MiniLM took 106 ms in place of 71.
    if not (unpadded and loaded.model.dtype == torch.float32 and has_avx2()):
        return replace(loaded, kernels=kernels)
    with fallbacks.guard(Optimization.PROGRAM):
        return replace(loaded, kernels=kernels, program=_layers_as_program(loaded.model, compiler))
    return replace(loaded, kernels=kernels)


def _leaves_out_padding(model: PreTrainedModel, settings: ModelSettings, fallbacks: Fallbacks) -> bool:
    free_to_choose = settings.acceleration and settings.attn_implementation is None
    if free_to_choose and model.device.type == "cpu" and Optimization.UNPADDED not in fallbacks.failed:
        with fallbacks.guard(Optimization.UNPADDED):
            return without_padding(model)
    return False


def _accelerates(model: PreTrainedModel, settings: ModelSettings) -> bool:
    on_cpu = settings.device_map is None and model.device.type == "cpu"
    return settings.acceleration and on_cpu and not _quantized(model)


def _kernels(model: PreTrainedModel, compiler: Compiler | None) -> Kernels | None:
    from runners.kernels.kernels import Kernels

    return Kernels(model.dtype, compiler) if compiler is not None and Kernels.compute(model.dtype) else None


def _layers_as_program(model: PreTrainedModel, compiler: Compiler | None) -> EncoderLayers | None:
    from runners.kernels.encoder_layers import as_program

    kernels = _kernels(model, compiler)
    return as_program(model, kernels) if kernels is not None else None


def _tiled(model: PreTrainedModel, compiler: Compiler | None) -> Tiled | None:
    """Linear layers by kernels of our own, where those compute."""
    if compiler is None or model.dtype != torch.float32:
        return None
    from runners.kernels.float32_kernels import Float32Kernels

    return Tiled(Float32Kernels(compiler)) if Float32Kernels.compute() else None


def _int8_kernels(compiler: Compiler | None) -> Int8Kernels | None:
    if compiler is None:
        return None
    from runners.kernels.int8_kernels import Int8Kernels

    return Int8Kernels(compiler) if Int8Kernels.compute() else None


def _check_int8(model: PreTrainedModel, settings: ModelSettings) -> None:
    if model.device.type != "cpu" or settings.device_map is not None:
        raise LoadError(
            f"{settings.shown_uri}: QUANTIZATION=int8 is for CPUs; leave it out, or choose LOAD_IN_8BIT on a GPU."
        )
    if not computes_int8():
        raise LoadError(f"{settings.shown_uri}: QUANTIZATION=int8 needs a CPU with VNNI, and this one has none.")
    if _quantized(model):
        raise LoadError(f"{settings.shown_uri} is quantized already; leave out QUANTIZATION.")


def _load(auto_class: Any, checkpoint: Checkpoint, settings: ModelSettings, new_head: bool) -> Pretrained:
    adapter = read_adapter(checkpoint.folder)
    base = checkpoint if adapter is None else _fetch_base(adapter, settings)
    check_fits(base, settings)
    _warn_of_pickles({base, checkpoint}, settings)
    try:
        with cache_gguf_reads() if base.gguf_file is not None else nullcontext():
            tokenizer = _load_tokenizer(checkpoint if adapter is None or adapter.has_tokenizer else base, settings)
            model, report = auto_class.from_pretrained(
                base.folder,
                output_loading_info=True,
                gguf_file=base.gguf_file,
                trust_remote_code=settings.trust_remote_code,
                **_placement(settings),
                **quantization(auto_class, base, settings),
                **(adapter.head_options if adapter is not None else {}),
            )
        if base.gguf_file is not None:
            model.hf_quantizer = None  # its weights are unpacked by now
        if adapter is None:
            absent = set(report["missing_keys"])
        else:
            absent = adapter.find_missing_weights(report)
            model = adapter.apply(model, merge=not _quantized(model))
    except LoadError:
        raise
    except Exception as error:
        logger.debug("loading %s failed", settings.shown_uri, exc_info=True)
        raise make_load_error(error, settings) from error
    _check_direction(model, settings)
    _check_weights(model, absent, new_head, settings)
    if _quantized(model):
        release_files(model)
    elif settings.device_map is None:
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.eval()
    missing = missing_tokens(model, tokenizer)
    _warn_of_missing(missing, settings)
    longest = reading_limit(model, tokenizer, settings.max_model_len)
    return Pretrained(model, tokenizer, longest, known_tokens(model, tokenizer), missing)


def _fetch_base(adapter: Adapter, settings: ModelSettings) -> Checkpoint:
    try:
        base = fetch(adapter.make_base_settings(settings))
        if read_adapter(base.folder) is not None:
            # transformers would follow it by itself, past our settings.
            raise LoadError(f"{base.folder} is an adapter too.")
        return base
    except LoadError as error:
        kind = UnreachableError if isinstance(error, UnreachableError) else LoadError
        raise kind(
            f"{settings.shown_uri} is an adapter whose base model cannot be had; BASE_MODEL names another: {error}"
        ) from error


def _quantized(model: PreTrainedModel) -> bool:
    """Whether the weights are packed by a library of their own: neither to be moved by hand nor added to."""
    return getattr(model, "hf_quantizer", None) is not None


def _warn_of_pickles(checkpoints: set[Checkpoint], settings: ModelSettings) -> None:
    if any(file.suffix == ".bin" for checkpoint in checkpoints for file in checkpoint.weight_files()):
        logger.warning(
            "%s has pickled weights; they are read without running what they may hold, but safetensors load faster "
            "and hold nothing else.",
            settings.shown_uri,
        )


def _warn_of_missing(missing: Mapping[int, str], settings: ModelSettings) -> None:
    if missing:
        some = ", ".join(map(repr, islice(missing.values(), 3)))
        logger.warning(
            "%s: the tokenizer has %d tokens that the model's embedding lacks, such as %s; texts with them are "
            "refused.",
            settings.shown_uri, len(missing), some,
        )  # fmt: skip


def _load_tokenizer(checkpoint: Checkpoint, settings: ModelSettings) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint.folder, gguf_file=checkpoint.gguf_file, trust_remote_code=settings.trust_remote_code
    )
    # Some read bytes or characters, and need no file. Others count their config as a file of the vocabulary.
    files = {file for file in tokenizer.vocab_files_names.values() if file and file != _TOKENIZER_CONFIG}
    if checkpoint.gguf_file is None and files and not has_vocabulary(checkpoint.folder, files):
        # transformers would go on with an empty vocabulary and answer nonsense.
        raise LoadError(
            f"{settings.shown_uri} has no tokenizer files ({', '.join(sorted({'tokenizer.json', *files}))})."
        )
    # Padding is done once for a whole batch, from rows tokenized alone: not what the warning warns of.
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
    return tokenizer


def _placement(settings: ModelSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": _dtype(settings)}
    if settings.attn_implementation is not None:
        options["attn_implementation"] = settings.attn_implementation
    if settings.device_map is not None:
        options["device_map"] = settings.device_map
    return options


def _dtype(settings: ModelSettings) -> Any:
    name = dtype_name(settings)
    return name if name == "auto" else getattr(torch, name)


def _check_direction(model: PreTrainedModel, settings: ModelSettings) -> None:
    """A masked language model has all weights of a generating one, and would write nonsense with them."""
    masked = any(name.endswith("ForMaskedLM") for name in model.config.architectures or [])
    if settings.task == "text-generation" and masked and not getattr(model.config, "is_decoder", False):
        raise LoadError(
            f"{settings.shown_uri} was trained to fill in masks, not for text-generation; choose another TASK or model."
        )


def _check_weights(model: PreTrainedModel, missing: set[str], new_head: bool, settings: ModelSettings) -> None:
    """Refuse a model with random weights, which it has where the checkpoint lacks some; but not for an unused head.

    Nor for a new one, or for weights that the model computes by itself.
    """
    missing = {key for key in missing if not key.split(".", 1)[-1].startswith("pooler.") and "pooler." not in key}
    if missing and isinstance(model, PreTrainedModel):
        missing -= find_computed_weights(model, missing)
    if not missing:
        return
    shown = ", ".join(sorted(missing)[:3])
    prefix = f"{model.base_model_prefix}."
    if new_head and not any(key.startswith(prefix) for key in missing):
        logger.warning(
            "%s has no %s head: %s are random, answers mean nothing until it is fine-tuned.",
            settings.shown_uri, settings.task, shown,
        )  # fmt: skip
        return
    raise LoadError(
        f"{settings.shown_uri} lacks weights that {type(model).__name__} needs ({shown}): "
        f"it was not made for {settings.task}; choose another TASK or model."
    )

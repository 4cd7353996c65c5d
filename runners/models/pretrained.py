"""Load a model and its tokenizer with `from_pretrained`, and optimize the model."""

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
from runners.kernels.allocator import keep_freed_memory, separate_large_tensors
from runners.kernels.cores import count_available_cores
from runners.kernels.fallbacks import Fallbacks, Optimization, OptimizationFailed, attempt
from runners.kernels.instructions import supports_int8
from runners.kernels.packed import TiledForm
from runners.kernels.unpadded import install_unpadded
from runners.kernels.weights import optimize_weights
from runners.models.adapter import Adapter, read_adapter
from runners.models.compiling import start_compiler
from runners.models.computed_weights import find_computed_weights
from runners.models.custom_code import warn_of_unused_pipeline
from runners.models.failures import make_load_error
from runners.models.gguf_files import cache_gguf_reads
from runners.models.lengths import find_input_limit
from runners.models.memory import check_fits, choose_dtype_name
from runners.models.quantization import make_quantization_options, release_mapped_files
from runners.models.vocabulary import count_known_tokens, find_missing_tokens
from runners.storage.checkpoint import Checkpoint
from runners.storage.fetch import fetch
from runners.storage.files import has_vocabulary
from runners.storage.source import UnreachableError

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler
    from runners.kernels.encoder_layers import EncoderProgram
    from runners.kernels.int8_kernels import Int8Kernels
    from runners.kernels.kernels import Kernels

logger = logging.getLogger(__name__)

#: Usual numbers of tokens per call. Encoders: one input, a batch. Decoders: one sequence, several, several and prefill.
_BATCH_ROWS, _STEP_ROWS = (32, 256), (1, 16, 64)

#: Optimizations that change weights; if one of them failed, the weights stay as loaded.
_CHANGE_WEIGHTS = frozenset(
    (Optimization.TRIAL, Optimization.MERGE, Optimization.INT8, Optimization.PACK, Optimization.FUSE)
)

_TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Model in evaluation mode on its device, with its tokenizer.

    Attributes:
        max_length: tokens per input that the model accepts, special tokens included; None if it has no limit.
        tokens: size of the input vocabulary; larger ids are outside the embedding.
        missing: tokens of the tokenizer outside the embedding, by id.
        unpadded: batches are computed without their padding.
        kernels: the kernels that the model uses, if any.
        program: the program that computes all layers, if there is one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    tokens: int
    missing: Mapping[int, str]
    unpadded: bool = False
    kernels: Kernels | None = None
    program: EncoderProgram | None = None


def prepare_torch(settings: ModelSettings) -> None:
    """Apply the settings of PyTorch and transformers that hold for the whole process."""
    transformers.logging.set_verbosity(transformers.logging.log_levels[settings.transformers_verbosity])
    if not sys.stderr.isatty():
        # In a file a progress bar is one line of a hundred thousand characters.
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(settings.torch_threads or count_available_cores(settings.cpus))
    keep_freed_memory()
    # cuDNN plans its attention again for each new shape, which takes most of a batch's time in bfloat16 on an H200. The
    # other fused kernels are as fast and need no plan per shape.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if settings.gpus and not torch.cuda.is_available():
        logger.warning("%s: GPUS=%g, but no GPU is available; the model runs on the CPU.", settings.name, settings.gpus)
    if settings.cuda_memory_fraction is not None and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(settings.cuda_memory_fraction)


def load_pretrained(
    auto_class: Any,
    checkpoint: Checkpoint,
    settings: ModelSettings,
    started_compiler: Compiler | None = None,
    *,
    new_head: bool = False,
    reads_batches: bool = False,
    fallbacks: Fallbacks | None = None,
) -> Pretrained:
    """Load model and tokenizer of a checkpoint, and optimize the model for the CPU.

    An optimization that raises, or that changes the model's results, is left out with a warning.

    Args:
        auto_class: the AutoModel class of the task.
        started_compiler: the compiler of its kernels, if it was started before.
        new_head: load with a warning if the checkpoint has no weights for the task's head.
        reads_batches: the model gets batches that are padded on the right, and may compute them without padding.
        fallbacks: records the optimizations that fail.

    Raises:
        LoadError: the model cannot be loaded; the message is one sentence.
    """
    warn_of_unused_pipeline(checkpoint.folder, settings)
    fallbacks = Fallbacks(settings.name) if fallbacks is None else fallbacks
    # A failed optimization leaves the model unusable, so load it again without that optimization.
    while True:
        try:
            with separate_large_tensors():
                return _load_optimized(
                    auto_class, checkpoint, settings, new_head, reads_batches, started_compiler, fallbacks
                )
        except OptimizationFailed as error:
            failed, reason = error.optimization, error.reason
        # Outside of `except`, so that nothing of the failed attempt stays in memory.
        assert failed not in fallbacks.failed, f"this is a bug: {failed.description} has failed before"
        fallbacks.report(failed, reason)


def _load_optimized(
    auto_class: Any,
    checkpoint: Checkpoint,
    settings: ModelSettings,
    new_head: bool,
    reads_batches: bool,
    started_compiler: Compiler | None,
    fallbacks: Fallbacks,
) -> Pretrained:
    """Load a model with all optimizations except those that failed before.

    Raises:
        LoadError: the model cannot be loaded.
        OptimizationFailed: another optimization failed.
    """
    loaded = _load(auto_class, checkpoint, settings, new_head)
    # Before quantization: the errors of int8 would hide small differences.
    unpadded = reads_batches and _remove_padding(loaded.model, settings, fallbacks)
    loaded = replace(loaded, unpadded=unpadded)
    int8 = settings.quantization == "int8"
    if int8:
        _check_int8(loaded.model, settings)
    if not (int8 or _can_accelerate(loaded.model, settings)) or not _CHANGE_WEIGHTS.isdisjoint(fallbacks.failed):
        return loaded
    compiler = kernels = tiled = int8_kernels = None
    if Optimization.KERNELS not in fallbacks.failed:
        with attempt(Optimization.KERNELS):
            gpu = torch.cuda.is_available()
            compiler = started_compiler or start_compiler(checkpoint, settings, reads_batches=reads_batches, gpu=gpu)
            # For batches, PyTorch's operations between the layers are as fast, because there are many rows.
            kernels = None if reads_batches else _make_kernels(loaded.model, compiler)
            tiled = _make_tiled(loaded.model, compiler)
            int8_kernels = _make_int8_kernels(compiler) if int8 else None
    rows = _BATCH_ROWS if reads_batches else _STEP_ROWS
    optimize_weights(loaded.model, rows=rows, int8=int8, kernels=kernels, tiled=tiled, int8_kernels=int8_kernels)
    release_mapped_files(loaded.model)
    # In bfloat16 the linear layers are PyTorch's, so a program is slower: 106 instead of 71 ms for 32 inputs of MiniLM.
    if not (unpadded and loaded.model.dtype == torch.float32):
        return replace(loaded, kernels=kernels)
    with fallbacks.guard(Optimization.PROGRAM):
        return replace(loaded, kernels=kernels, program=_make_program(loaded.model, compiler))
    return replace(loaded, kernels=kernels)


def _remove_padding(model: PreTrainedModel, settings: ModelSettings, fallbacks: Fallbacks) -> bool:
    free_to_choose = settings.acceleration and settings.attn_implementation is None
    if free_to_choose and model.device.type == "cpu" and Optimization.UNPADDED not in fallbacks.failed:
        with fallbacks.guard(Optimization.UNPADDED):
            return install_unpadded(model)
    return False


def _can_accelerate(model: PreTrainedModel, settings: ModelSettings) -> bool:
    on_cpu = settings.device_map is None and model.device.type == "cpu"
    return settings.acceleration and on_cpu and not _is_quantized(model)


def _make_kernels(model: PreTrainedModel, compiler: Compiler | None) -> Kernels | None:
    from runners.kernels.kernels import Kernels

    return Kernels(model.dtype, compiler) if compiler is not None and Kernels.supports(model.dtype) else None


def _make_program(model: PreTrainedModel, compiler: Compiler | None) -> EncoderProgram | None:
    from runners.kernels.encoder_layers import install_program

    kernels = _make_kernels(model, compiler)
    return install_program(model, kernels) if kernels is not None else None


def _make_tiled(model: PreTrainedModel, compiler: Compiler | None) -> TiledForm | None:
    """Return kernels for float32 linear layers, if this CPU supports them."""
    if compiler is None or model.dtype != torch.float32:
        return None
    from runners.kernels.float32_kernels import Float32Kernels
    from runners.kernels.host_cpu import supports_tiles

    return TiledForm(Float32Kernels(compiler)) if supports_tiles() else None


def _make_int8_kernels(compiler: Compiler | None) -> Int8Kernels | None:
    if compiler is None:
        return None
    from runners.kernels.int8_kernels import Int8Kernels

    return Int8Kernels(compiler) if Int8Kernels.is_supported() else None


def _check_int8(model: PreTrainedModel, settings: ModelSettings) -> None:
    if model.device.type != "cpu" or settings.device_map is not None:
        raise LoadError(
            f"{settings.shown_uri}: QUANTIZATION=int8 is for CPUs; leave it out, or choose LOAD_IN_8BIT on a GPU."
        )
    if not supports_int8():
        raise LoadError(f"{settings.shown_uri}: QUANTIZATION=int8 needs a CPU with VNNI, and this one has none.")
    if _is_quantized(model):
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
                **_make_placement_options(settings),
                **make_quantization_options(auto_class, base, settings),
                **(adapter.head_options if adapter is not None else {}),
            )
        if base.gguf_file is not None:
            model.hf_quantizer = None  # its weights are unpacked now
        if adapter is None:
            absent = set(report["missing_keys"])
        else:
            absent = adapter.find_missing_weights(report)
            model = adapter.apply(model, merge=not _is_quantized(model))
    except LoadError:
        raise
    except Exception as error:
        logger.debug("loading %s failed", settings.shown_uri, exc_info=True)
        raise make_load_error(error, settings) from error
    _refuse_masked_model(model, settings)
    _check_weights(model, absent, new_head, settings)
    if _is_quantized(model):
        release_mapped_files(model)
    elif settings.device_map is None:
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.eval()
    missing = find_missing_tokens(model, tokenizer)
    _warn_of_missing(missing, settings)
    max_length = find_input_limit(model, tokenizer, settings.max_model_len)
    return Pretrained(model, tokenizer, max_length, count_known_tokens(model, tokenizer), missing)


def _fetch_base(adapter: Adapter, settings: ModelSettings) -> Checkpoint:
    try:
        base = fetch(adapter.make_base_settings(settings))
        if read_adapter(base.folder) is not None:
            # transformers would load that adapter's base model itself, without our settings.
            raise LoadError(f"{base.folder} is an adapter too.")
        return base
    except LoadError as error:
        kind = UnreachableError if isinstance(error, UnreachableError) else LoadError
        raise kind(
            f"{settings.shown_uri} is an adapter whose base model cannot be fetched; "
            f"set BASE_MODEL to use another: {error}"
        ) from error


def _is_quantized(model: PreTrainedModel) -> bool:
    """Return True if a quantization library packed the weights, so they must not be changed."""
    return getattr(model, "hf_quantizer", None) is not None


def _warn_of_pickles(checkpoints: set[Checkpoint], settings: ModelSettings) -> None:
    if any(file.suffix == ".bin" for checkpoint in checkpoints for file in checkpoint.list_weight_files()):
        logger.warning(
            "%s has pickled weights; code in them is not run, but safetensors load faster and cannot contain code.",
            settings.shown_uri,
        )


def _warn_of_missing(missing: Mapping[int, str], settings: ModelSettings) -> None:
    if missing:
        some = ", ".join(map(repr, islice(missing.values(), 3)))
        logger.warning(
            "%s: the tokenizer has %d tokens that the model's embedding lacks, such as %s; "
            "inputs with them are refused.",
            settings.shown_uri, len(missing), some,
        )  # fmt: skip


def _load_tokenizer(checkpoint: Checkpoint, settings: ModelSettings) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint.folder, gguf_file=checkpoint.gguf_file, trust_remote_code=settings.trust_remote_code
    )
    # Tokenizers on bytes or characters need no file. Others list their config as a vocabulary file.
    files = {file for file in tokenizer.vocab_files_names.values() if file and file != _TOKENIZER_CONFIG}
    if checkpoint.gguf_file is None and files and not has_vocabulary(checkpoint.folder, files):
        # transformers would continue with an empty vocabulary, and the results would be meaningless.
        raise LoadError(
            f"{settings.shown_uri} has no tokenizer files ({', '.join(sorted({'tokenizer.json', *files}))})."
        )
    # Rows are tokenized one by one and padded as a batch, so the warning about slow padding does not apply.
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
    return tokenizer


def _make_placement_options(settings: ModelSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": _choose_dtype(settings)}
    if settings.attn_implementation is not None:
        options["attn_implementation"] = settings.attn_implementation
    if settings.device_map is not None:
        options["device_map"] = settings.device_map
    return options


def _choose_dtype(settings: ModelSettings) -> Any:
    name = choose_dtype_name(settings)
    return name if name == "auto" else getattr(torch, name)


def _refuse_masked_model(model: PreTrainedModel, settings: ModelSettings) -> None:
    """Refuse a masked language model for text-generation.

    It has all weights of a generative model, so it would load, and generate meaningless text.
    """
    masked = any(name.endswith("ForMaskedLM") for name in model.config.architectures or [])
    if settings.task == "text-generation" and masked and not getattr(model.config, "is_decoder", False):
        raise LoadError(
            f"{settings.shown_uri} was trained to fill in masks, not for text-generation; choose another TASK or model."
        )


def _check_weights(model: PreTrainedModel, missing: set[str], new_head: bool, settings: ModelSettings) -> None:
    """Refuse a model whose checkpoint lacks weights, because they would be random.

    Allowed are an unused pooler, a new head if `new_head` is set, and weights that the model computes itself.
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
            "%s has no %s head: %s are random, so results are meaningless until it is fine-tuned.",
            settings.shown_uri, settings.task, shown,
        )  # fmt: skip
        return
    raise LoadError(
        f"{settings.shown_uri} lacks weights that {type(model).__name__} needs ({shown}): "
        f"it was not made for {settings.task}; choose another TASK or model."
    )

"""Estimate a model's memory before its weights are loaded, and measure the free memory."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.models.garbage import collect_everything
from runners.storage.checkpoint import Checkpoint, read_local_config
from runners.storage.disk import format_size

#: Bytes per element of the types that safetensors and config.json name.
_WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8,
}  # fmt: skip
#: Bytes per element of quantized linear layers, with the scales that bitsandbytes stores.
_INT8, _NF4 = 1.02, 0.56
#: Layers that bitsandbytes does not quantize, by parts of their names.
_UNQUANTIZED = ("embed", "wte", "wpe", "shared", "lm_head", "classifier", "score", "qa_outputs", "cls.")

#: Files with a container's memory limit, its usage and the statistics: cgroup version 2, then version 1.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
#: Bytes of cached files, which the system frees on demand; a fresh download fills a container with them.
_CACHED_FILES = re.compile(r"^(?:total_)?(?:in)?active_file (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Size of a model.

    Attributes:
        parameters: None if it is not known without reading the whole files.
        disk: bytes of the weight files.
        memory: bytes of the weights once they are loaded as configured; None as for `parameters`.
    """

    parameters: int | None
    disk: int
    memory: int | None


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    width: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def footprint(checkpoint: Checkpoint, settings: ModelSettings) -> Footprint:
    """Return the size of a checkpoint, read from the headers of its weight files.

    For GGUF files only the size on disk is returned, because reading their headers is slow.
    """
    files = checkpoint.list_weight_files()
    disk = sum(file.stat().st_size for file in files)
    if not files or checkpoint.gguf_file is not None:
        return Footprint(None, disk, None)
    config = read_local_config(checkpoint) or {}
    tensors = list(_read_tensors(files, _find_stored_width(config)))
    if "quantization_config" in config:
        # Packed weights: their shapes do not give the number of parameters, and loading converts nothing.
        return Footprint(None, disk, disk)
    memory = sum(tensor.size * _find_loaded_width(tensor, settings) for tensor in tensors)
    return Footprint(sum(tensor.size for tensor in tensors), disk, int(memory))


def estimate_footprint(weights: int, config: Mapping[str, Any], settings: ModelSettings) -> Footprint:
    """Return the estimated size of a model that is not on this machine.

    With LOAD_IN_8BIT or LOAD_IN_4BIT every weight counts as quantized, so the true size may be larger.

    Args:
        weights: bytes of the weight files.
        config: its config.json.
    """
    if "quantization_config" in config:
        return Footprint(None, weights, weights)
    stored = _find_stored_width(config)
    tensor = _Tensor("", (weights // stored, 1), stored)
    return Footprint(tensor.size, weights, int(tensor.size * _find_loaded_width(tensor, settings)))


def check_fits(checkpoint: Checkpoint, settings: ModelSettings) -> None:
    """Refuse a model whose weights alone do not fit in the free memory.

    With DEVICE_MAP nothing is checked: accelerate may use several devices and the disk.

    Raises:
        LoadError: names both sizes and what to do.
    """
    if settings.device_map is not None:
        return
    with suppress(OSError, SafetensorError):  # loading reports a damaged file
        size = footprint(checkpoint, settings)
        # A packed format has at most 32 bits per element, so its unpacked weights take at least this.
        unpacked = size.disk * _WIDTHS.get(choose_dtype_name(settings), 2) // 4
        needed = unpacked if size.memory is None else size.memory
        free = measure_free_device_memory(settings)
        if needed > free:
            precision = format_precision(settings).replace("auto", "its own precision")
            raise LoadError(
                f"{settings.shown_uri} does not fit in memory: it needs about {format_size(needed)} in "
                f"{precision} and {format_size(free)} are free; use a smaller TORCH_DTYPE, LOAD_IN_8BIT "
                "or LOAD_IN_4BIT, or more memory."
            )


def measure_free_device_memory(settings: ModelSettings) -> int:
    """Return the free bytes for weights, on the first GPU if there is one."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return min(free, int(total * (settings.cuda_memory_fraction or 1)))
    return measure_free_memory(settings.memory_limit)


def measure_free_memory(limit: int | None = None) -> int:
    """Return the free bytes of the machine, the container or `limit`, whichever is least."""
    free = psutil.virtual_memory().available
    for limit_file, usage_file, statistics_file in _CGROUPS:
        # Suppressed: the file does not exist, or there is no limit ("max").
        with suppress(OSError, ValueError):
            used = int(Path(usage_file).read_text()) - _sum_cached_files(Path(statistics_file).read_text())
            free = min(free, max(int(Path(limit_file).read_text()) - used, 0))
    return free if limit is None else min(free, max(limit - psutil.Process().memory_info().rss, 0))


def _sum_cached_files(statistics: str) -> int:
    """Return the bytes of cached files in the statistics of a cgroup.

    Version 1 also has `total_` lines, which include the child groups; then only those are added.
    """
    inherited = "total_" in statistics
    matches = [match for match in _CACHED_FILES.finditer(statistics) if match[0].startswith("total_") == inherited]
    return sum(int(match[1]) for match in matches)


def trim_heap() -> None:
    """Return freed heap memory to the system after a model was loaded; glibc would keep it."""
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def release_dropped_model() -> None:
    """Free a dropped model and the caches of its device, and return the memory to the system."""
    collect_everything()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()


def choose_dtype_name(settings: ModelSettings) -> str:
    """Return the type that weights are loaded in; `auto` is the type in the files."""
    return settings.torch_dtype or ("auto" if torch.cuda.is_available() else "float32")


def format_precision(settings: ModelSettings) -> str:
    """Return the precision for messages: the type, or the bits of a quantized model."""
    return "8 bit" if settings.load_in_8bit else "4 bit" if settings.load_in_4bit else choose_dtype_name(settings)


def _find_stored_width(config: Mapping[str, Any]) -> int:
    """Return the bytes per element in the files: from config.json, or 4 if it has no type."""
    return _WIDTHS.get(str(config.get("dtype") or config.get("torch_dtype")), 4)


def _read_tensors(files: Iterable[Path], width: int) -> Iterator[_Tensor]:
    """Yield the tensors of weight files, without their data.

    A pickle counts as one tensor of its size, because it has no header.
    """
    for file in files:
        if file.suffix != ".safetensors":
            yield _Tensor(file.name, (file.stat().st_size // width,), width)
            continue
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # `tensors` is no dictionary
                part = tensors.get_slice(name)
                yield _Tensor(name, tuple(part.get_shape()), _WIDTHS.get(part.get_dtype(), 1))


def _find_loaded_width(tensor: _Tensor, settings: ModelSettings) -> float:
    """Return the bytes per element of a tensor once it is loaded."""
    dtype = choose_dtype_name(settings)
    plain = tensor.width if dtype == "auto" else _WIDTHS[dtype]
    quantized = len(tensor.shape) == 2 and not any(part in tensor.name for part in _UNQUANTIZED)
    if quantized and settings.load_in_8bit:
        return _INT8
    if quantized and settings.load_in_4bit:
        return _NF4
    return plain

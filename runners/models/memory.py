"""How much memory a model needs, and how much there is; told before weights are read."""

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
from runners.storage.checkpoint import Checkpoint, local_config
from runners.storage.disk import shown_size

#: Bytes of the types that safetensors and config.json name.
_WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8,
}  # fmt: skip
#: Quantized linear layers, with what bitsandbytes keeps beside them.
_INT8, _NF4 = 1.02, 0.56
#: Layers that stay as they are when the others are quantized.
_UNQUANTIZED = ("embed", "wte", "wpe", "shared", "lm_head", "classifier", "score", "qa_outputs", "cls.")

#: Where Linux says how much memory a container may take, takes, and of what: version 2, then version 1.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
#: Cached files, which make way for whoever needs memory; a model that was just downloaded fills a container with them.
_CACHED = re.compile(r"^(?:total_)?(?:in)?active_file (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Footprint:
    """The size of a model.

    Attributes:
        parameters: None if the files do not say without being read whole.
        disk: bytes of its weight files.
        memory: bytes of its weights as they are configured to be loaded; None as for `parameters`.
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
    """Read the headers of a checkpoint's weight files; GGUF files, which say it slowly, count on disk alone."""
    files = checkpoint.weight_files()
    disk = sum(file.stat().st_size for file in files)
    if not files or checkpoint.gguf_file is not None:
        return Footprint(None, disk, None)
    config = local_config(checkpoint) or {}
    tensors = list(_tensors(files, _stored_width(config)))
    if "quantization_config" in config:
        # Packed: neither do the shapes tell the parameters, nor is anything converted.
        return Footprint(None, disk, disk)
    memory = sum(tensor.size * _width(tensor, settings) for tensor in tensors)
    return Footprint(sum(tensor.size for tensor in tensors), disk, int(memory))


def expected_footprint(weights: int, config: Mapping[str, Any], settings: ModelSettings) -> Footprint:
    """The same of a model that is elsewhere, from the bytes of its weight files and its config.json.

    Every weight counts as one that is quantized where LOAD_IN_8BIT or LOAD_IN_4BIT is set, so the truth may be more.
    """
    if "quantization_config" in config:
        return Footprint(None, weights, weights)
    stored = _stored_width(config)
    tensor = _Tensor("", (weights // stored, 1), stored)
    return Footprint(tensor.size, weights, int(tensor.size * _width(tensor, settings)))


def check_fits(checkpoint: Checkpoint, settings: ModelSettings) -> None:
    """Refuse a model whose weights alone are more than there is memory for.

    Nothing is said where accelerate spreads the model: it may take several devices and the disk.

    Raises:
        LoadError: with both sizes and what to do.
    """
    if settings.device_map is not None:
        return
    with suppress(OSError, SafetensorError):  # A damaged file has an error of its own.
        size = footprint(checkpoint, settings)
        # What is unpacked, from 32 bits a number at most, takes at least this.
        unpacked = size.disk * _WIDTHS.get(dtype_name(settings), 2) // 4
        needed = unpacked if size.memory is None else size.memory
        free = free_device_memory(settings)
        if needed > free:
            precision = precision_name(settings).replace("auto", "its own precision")
            raise LoadError(
                f"{settings.shown_uri} does not fit in memory: it needs about {shown_size(needed)} in "
                f"{precision} and {shown_size(free)} are free; use a smaller TORCH_DTYPE, LOAD_IN_8BIT "
                "or LOAD_IN_4BIT, or more memory."
            )


def free_device_memory(settings: ModelSettings) -> int:
    """Bytes that weights may take where they would be: on the first GPU if there is one."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return min(free, int(total * (settings.cuda_memory_fraction or 1)))
    return free_memory(settings.memory_limit)


def free_memory(limit: int | None = None) -> int:
    """Bytes that this process may still take of the machine's, of its container's, and of `limit`."""
    free = psutil.virtual_memory().available
    for most, taken, kinds in _CGROUPS:
        # No such file, or no limit: "max".
        with suppress(OSError, ValueError):
            used = int(Path(taken).read_text()) - _cached(Path(kinds).read_text())
            free = min(free, max(int(Path(most).read_text()) - used, 0))
    return free if limit is None else min(free, max(limit - psutil.Process().memory_info().rss, 0))


def _cached(statistics: str) -> int:
    """Bytes of cached files. Version 1 counts its children's in lines of their own, which hold those of the others."""
    inherited = "total_" in statistics
    found = [match for match in _CACHED.finditer(statistics) if match[0].startswith("total_") == inherited]
    return sum(int(match[1]) for match in found)


def give_back_memory() -> None:
    """Return to the system what conversions took while a model was loaded; the C library would keep it."""
    with suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


def give_back_dropped() -> None:
    """Return to the system what a model took that nobody refers to any more, and what caches kept for it."""
    collect_everything()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    give_back_memory()


def dtype_name(settings: ModelSettings) -> str:
    """The type that weights are loaded in, `auto` for that of the files."""
    return settings.torch_dtype or ("auto" if torch.cuda.is_available() else "float32")


def precision_name(settings: ModelSettings) -> str:
    """The same as the operator chose it, or the bits that are quantized to."""
    return "8 bit" if settings.load_in_8bit else "4 bit" if settings.load_in_4bit else dtype_name(settings)


def _stored_width(config: Mapping[str, Any]) -> int:
    """Bytes of a number in the files, as config.json says it; older ones do not."""
    return _WIDTHS.get(str(config.get("dtype") or config.get("torch_dtype")), 4)


def _tensors(files: Iterable[Path], width: int) -> Iterator[_Tensor]:
    """What files hold; of a pickle, which cannot be looked into without being read, one tensor of its size."""
    for file in files:
        if file.suffix != ".safetensors":
            yield _Tensor(file.name, (file.stat().st_size // width,), width)
            continue
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a dictionary
                part = tensors.get_slice(name)
                yield _Tensor(name, tuple(part.get_shape()), _WIDTHS.get(part.get_dtype(), 1))


def _width(tensor: _Tensor, settings: ModelSettings) -> float:
    """Bytes of each number of a tensor once it is loaded."""
    dtype = dtype_name(settings)
    plain = tensor.width if dtype == "auto" else _WIDTHS[dtype]
    quantized = len(tensor.shape) == 2 and not any(part in tensor.name for part in _UNQUANTIZED)
    if quantized and settings.load_in_8bit:
        return _INT8
    if quantized and settings.load_in_4bit:
        return _NF4
    return plain

"""Errors after which a device computes nothing any more in this process, and only another process helps.

CUDA calls them sticky: every later call in the process returns the same error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

#: Those of which CUDA's documentation says that the process must be ended and started again, by name and by text:
#: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html
_NAMES = (
    r"cudaError(?:IllegalAddress|Assert|LaunchFailure|MisalignedAddress|IllegalInstruction|InvalidPc"
    r"|InvalidAddressSpace|HardwareStackError|LaunchTimeout|ECCUncorrectable|NvlinkUncorrectable|TensorMemoryLeak"
    r"|Contained|ContextIsDestroyed|ExternalDevice|Unknown)\b"
    r"|CUDA_ERROR_(?:ILLEGAL_ADDRESS|ASSERT|LAUNCH_FAILED|MISALIGNED_ADDRESS|ILLEGAL_INSTRUCTION|INVALID_PC"
    r"|INVALID_ADDRESS_SPACE|HARDWARE_STACK_ERROR|LAUNCH_TIMEOUT|ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE"
    r"|TENSOR_MEMORY_LEAK|CONTAINED|CONTEXT_IS_DESTROYED|EXTERNAL_DEVICE_ERROR|UNKNOWN)\b"
)
_TEXTS = (
    r"(?:an )?illegal memory access|device-side assert|unspecified launch failure|misaligned address"
    r"|(?:an )?illegal instruction|invalid program counter|operation not supported on global/shared address space"
    r"|hardware stack error|(?:the )?launch timed out|uncorrectable (?:ECC|NVLink) error"
    r"|tensor memory not completely freed|context is destroyed"
)

#: At the start, or behind who says it: the texts of clients stand elsewhere in errors, and must end no process.
_STICKY = re.compile(
    rf"^(?:(?:Triton Error \[|PyTorch |Torch )?(?:CUDA|HIP|XPU|cuda|hip)\b.*?\b(?:{_NAMES}|{_TEXTS}|unknown error)"
    rf"|{_NAMES}|{_TEXTS})"
)

#: Refusals of single calls, after which a device goes on.
_HARMLESS = re.compile(
    r"out of memory|MemoryAllocation|invalid (?:argument|configuration|device|resource|value|pitch|texture|symbol)"
    r"|no kernel image|captur(?:e|ing)|not supported|not permitted|too many resources|not ready|peer access"
    r"|symbol not found|CUBLAS_STATUS_(?:ALLOC_FAILED|INVALID_VALUE|NOT_SUPPORTED)",
    re.IGNORECASE,
)


class BrokenDevice(Exception):
    """The device computes nothing any more in this process; the message is what it said first, in one line."""


def raise_if_broken(error: BaseException) -> None:
    """Go on after an error of one computation alone.

    Raises:
        BrokenDevice: whatever is computed next fails as well.
    """
    for one in _with_causes(error):
        if isinstance(one, BrokenDevice) or _is_sticky(one):
            raise BrokenDevice(_line(one)) from one
    if (said := _what_device_says(error)) is not None:
        raise BrokenDevice(said) from error


def broken_by(error: BaseException | None) -> BrokenDevice | None:
    """Find errors of a broken device, in exception groups too."""
    return next((one for one in _with_causes(error) if isinstance(one, BrokenDevice)), None)


def message_of(error: BaseException) -> str:
    """Return what an error says; nothing if that raises an error itself."""
    try:
        return str(error)
    except Exception:
        return ""


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def _is_sticky(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    torch: Any = sys.modules.get("torch")
    if torch is None or isinstance(error, torch.OutOfMemoryError):
        return False
    said = _line(error)
    if _STICKY.search(said):
        return True
    return isinstance(error, getattr(torch, "AcceleratorError", ())) and _HARMLESS.search(said) is None


def _what_device_says(error: BaseException) -> str | None:
    """Call a GPU in use once more and return its error: libraries hide the first one behind theirs."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized() or not isinstance(error, RuntimeError):
        return None
    if isinstance(error, torch.OutOfMemoryError):
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as again:
        return _line(again)
    return None


def _line(error: BaseException) -> str:
    return next(iter(message_of(error).splitlines()), "") or type(error).__name__

"""Detection of sticky device errors, after which the process must be restarted.

CUDA calls an error sticky if every later call in the same process returns it again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

#: Names and messages of the errors that, by CUDA's documentation, require the process to be ended and started again:
#: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html
_NAMES = (
    r"cudaError(?:IllegalAddress|Assert|LaunchFailure|MisalignedAddress|IllegalInstruction|InvalidPc"
    r"|InvalidAddressSpace|HardwareStackError|LaunchTimeout|ECCUncorrectable|NvlinkUncorrectable|TensorMemoryLeak"
    r"|Contained|ContextIsDestroyed|ExternalDevice|Unknown)\b"
    r"|CUDA_ERROR_(?:ILLEGAL_ADDRESS|ASSERT|LAUNCH_FAILED|MISALIGNED_ADDRESS|ILLEGAL_INSTRUCTION|INVALID_PC"
    r"|INVALID_ADDRESS_SPACE|HARDWARE_STACK_ERROR|LAUNCH_TIMEOUT|ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE"
    r"|TENSOR_MEMORY_LEAK|CONTAINED|CONTEXT_IS_DESTROYED|EXTERNAL_DEVICE_ERROR|UNKNOWN)\b"
)
_MESSAGES = (
    r"(?:an )?illegal memory access|device-side assert|unspecified launch failure|misaligned address"
    r"|(?:an )?illegal instruction|invalid program counter|operation not supported on global/shared address space"
    r"|hardware stack error|(?:the )?launch timed out|uncorrectable (?:ECC|NVLink) error"
    r"|tensor memory not completely freed|context is destroyed"
)

#: Matches only at the start of a message, after an optional name of the library. Clients' text can occur further inside
#: an error message and must not end the process.
_STICKY = re.compile(
    rf"^(?:(?:Triton Error \[|PyTorch |Torch )?(?:CUDA|HIP|XPU|cuda|hip)\b.*?\b(?:{_NAMES}|{_MESSAGES}|unknown error)"
    rf"|{_NAMES}|{_MESSAGES})"
)

#: Errors of a single call, after which the device still works.
_HARMLESS = re.compile(
    r"out of memory|MemoryAllocation|invalid (?:argument|configuration|device|resource|value|pitch|texture|symbol)"
    r"|no kernel image|captur(?:e|ing)|not supported|not permitted|too many resources|not ready|peer access"
    r"|symbol not found|CUBLAS_STATUS_(?:ALLOC_FAILED|INVALID_VALUE|NOT_SUPPORTED)",
    re.IGNORECASE,
)


class BrokenDevice(Exception):
    """Error of a device that is unusable for the rest of this process.

    Its message is the first line of the device's error.
    """


def raise_if_broken(error: BaseException) -> None:
    """Raise `BrokenDevice` if an error made the device unusable, else return.

    Raises:
        BrokenDevice: every later computation in this process fails too.
    """
    for one in _iterate_chain(error):
        if isinstance(one, BrokenDevice) or _is_sticky(one):
            raise BrokenDevice(_first_line(one)) from one
    if (message := _probe_device(error)) is not None:
        raise BrokenDevice(message) from error


def find_broken_device(error: BaseException | None) -> BrokenDevice | None:
    """Return the `BrokenDevice` among an error, its causes and its exception groups, or None."""
    return next((one for one in _iterate_chain(error) if isinstance(one, BrokenDevice)), None)


def message_of(error: BaseException) -> str:
    """Return the message of an error, or an empty string if formatting it fails."""
    try:
        return str(error)
    except Exception:
        return ""


def _iterate_chain(error: BaseException | None) -> Iterator[BaseException]:
    pending, seen = [error], set[int]()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        pending += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        if isinstance(one, BaseExceptionGroup):
            pending += one.exceptions


def _is_sticky(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    torch: Any = sys.modules.get("torch")
    if torch is None or isinstance(error, torch.OutOfMemoryError):
        return False
    message = _first_line(error)
    if _STICKY.search(message):
        return True
    return isinstance(error, getattr(torch, "AcceleratorError", ())) and _HARMLESS.search(message) is None


def _probe_device(error: BaseException) -> str | None:
    """Synchronize a GPU in use and return its error, which libraries hide behind their own."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized() or not isinstance(error, RuntimeError):
        return None
    if isinstance(error, torch.OutOfMemoryError):
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as again:
        return _first_line(again)
    return None


def _first_line(error: BaseException) -> str:
    return next(iter(message_of(error).splitlines()), "") or type(error).__name__

"""Promise: errors that end a process differ from errors of one batch and from input text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hf_runtime.contract.errors import InferenceFailed, Overloaded
from runners.engines.batch.retry import error_for_item, retry_in_halves
from runners.engines.device_errors import BrokenDevice, find_broken_device, raise_if_broken

_NOTE = "\nCUDA kernel errors might be asynchronously reported at some other API call."

STICKY = [
    RuntimeError(f"CUDA error: an illegal memory access was encountered{_NOTE}"),
    RuntimeError(f"CUDA error: device-side assert triggered{_NOTE}"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: the launch timed out and was terminated"),
    RuntimeError("CUDA error: unknown error"),
    RuntimeError("HIP error: an illegal memory access was encountered"),
    RuntimeError("CUDA driver error: an illegal instruction was encountered"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("CUDA error (710): cudaErrorAssert"),
    RuntimeError("cuda runtime error (59) : device-side assert triggered at THC/THCReduceAll.cuh:327"),
    RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered"),
    RuntimeError("device-side assert triggered"),
    torch.AcceleratorError(f"CUDA error: device-side assert triggered{_NOTE}"),
    torch.AcceleratorError("CUDA error: operation not supported on global/shared address space"),
    torch.AcceleratorError("CUDA error: something that nobody has heard of"),
]

ORDINARY = [
    RuntimeError("crashed"),
    RuntimeError(""),
    RuntimeError("The size of tensor a (512) must match the size of tensor b (600)"),
    RuntimeError("CUDA error: invalid configuration argument"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("CUDA error: out of memory"),
    torch.AcceleratorError("CUDA error: out of memory"),
    torch.AcceleratorError("CUDA error: invalid argument"),
    torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError("device-side assert triggered"),
    IndexError("index out of range in self"),
    # An error may quote the client's input.
    ValueError("CUDA error: device-side assert triggered"),
    RuntimeError("cannot read 'CUDA error: an illegal memory access was encountered'"),
    KeyError("CUDA error: unspecified launch failure"),
]


@pytest.mark.parametrize("error", STICKY, ids=str)
def test_a_sticky_error_is_raised_for_the_whole_process(error: RuntimeError) -> None:
    with pytest.raises(BrokenDevice) as raised:
        raise_if_broken(error)
    assert str(raised.value) == str(error).splitlines()[0]
    with pytest.raises(BrokenDevice):
        error_for_item(error)
    halves: list[int] = []
    with pytest.raises(BrokenDevice):
        retry_in_halves([1, 2], "rows", halves.extend, error)
    assert halves == []


@pytest.mark.parametrize("error", ORDINARY, ids=str)
def test_an_ordinary_error_concerns_only_its_batch(error: Exception) -> None:
    raise_if_broken(error)
    assert isinstance(error_for_item(error), InferenceFailed | Overloaded)


def _raise_from(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as inner:
            raise ValueError("the pipeline failed") from inner
    except ValueError as outer:
        return outer


def _raise_while_handling(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception:
            raise KeyError("while it was handled")  # noqa: B904
    except KeyError as outer:
        return outer


@pytest.mark.parametrize(
    "wrap", [_raise_from, _raise_while_handling, lambda error: ExceptionGroup("tasks", [KeyError(), error])]
)
def test_a_device_error_within_other_errors_is_found(wrap: Callable[[Exception], Exception]) -> None:
    with pytest.raises(BrokenDevice, match="device-side assert"):
        raise_if_broken(wrap(RuntimeError("CUDA error: device-side assert triggered")))
    raise_if_broken(wrap(RuntimeError("CUDA error: invalid argument")))


def test_a_gpu_that_fails_again_when_synchronized_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[None] = []

    def synchronize() -> None:
        asked.append(None)
        if len(asked) > 1:
            raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    hidden = RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`")
    raise_if_broken(hidden)
    with pytest.raises(BrokenDevice, match="launch failure"):
        raise_if_broken(hidden)


def test_a_broken_device_is_found_in_groups_of_tasks() -> None:
    broken = BrokenDevice("x")
    assert find_broken_device(ExceptionGroup("a", [ExceptionGroup("b", [KeyError(), broken])])) is broken
    assert find_broken_device(KeyError()) is None
    assert find_broken_device(None) is None

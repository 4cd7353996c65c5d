"""Retry of a failed batch in halves until the failing item is found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from hf_runtime.contract.errors import InferenceFailed, Overloaded, ServingError
from runners.engines.device_errors import message_of, raise_if_broken

logger = logging.getLogger(__name__)

PartT = TypeVar("PartT")

#: Seconds until memory may be available again.
_RETRY_AFTER = 5


def retry_in_halves(
    parts: Sequence[PartT], what: str, compute: Callable[[Sequence[PartT]], Any], error: Exception
) -> list[Any]:
    """Compute each half of a failed batch again.

    A failing part is found in a logarithmic number of steps, and each half needs less memory.

    Args:
        parts: at least two parts of the batch.
        what: plural noun for the parts, for the log.
        compute: computes one half, and handles its failure.
        error: the error of the whole batch.

    Returns:
        The result of `compute` for the first half and for the second.

    Raises:
        BrokenDevice: the halves would fail too.
    """
    raise_if_broken(error)
    logger.warning("a batch of %d %s failed, retrying it in halves", len(parts), what, exc_info=error)
    _free_memory(error)
    middle = len(parts) // 2
    return [compute(parts[:middle]), compute(parts[middle:])]


def error_for_item(error: Exception) -> ServingError:
    """Return the error that the client of a failed item gets, and log the original error.

    Raises:
        BrokenDevice: the device is broken, so the item did not cause the error.
    """
    raise_if_broken(error)
    logger.error("computing an item failed", exc_info=error)
    _free_memory(error)
    if _is_out_of_memory(error):
        return Overloaded("there is not enough memory for this instance now", retry_after=_RETRY_AFTER)
    return InferenceFailed("the model failed on this instance; the server's log has the details")


def _free_memory(error: Exception) -> None:
    """Free the tensors of the failed computation, and the CUDA cache if memory ran out.

    Cached blocks have the wrong sizes for a smaller batch.
    """
    error.__traceback__ = None  # its frames hold tensors
    if _is_out_of_memory(error) and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out."""
    # PyTorch's CPU allocator raises a plain RuntimeError, so its message is checked.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in message_of(error)

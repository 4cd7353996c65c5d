"""What becomes of rows whose computation failed: halves are tried again, and the one that is left is to blame."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from hf_runtime.contract.errors import InferenceFailed, Overloaded, ServingError
from runners.engines.device_errors import message_of, raise_if_broken

logger = logging.getLogger(__name__)

PartT = TypeVar("PartT")

#: Seconds after which there may be memory again.
_LATER = 5


def retry_in_halves(
    parts: Sequence[PartT], what: str, compute: Callable[[Sequence[PartT]], Any], error: Exception
) -> list[Any]:
    """Compute each half of what failed as a whole: a culprit is found in few steps, and less memory is needed.

    Args:
        parts: at least two.
        what: they are, for the log.
        compute: does it again, and deals with a half that fails.

    Returns:
        What it returned for the first half and for the second.

    Raises:
        BrokenDevice: halves would fail too.
    """
    raise_if_broken(error)
    logger.warning("a batch of %d %s failed, computing it in halves", len(parts), what, exc_info=error)
    _give_back_memory(error)
    middle = len(parts) // 2
    return [compute(parts[:middle]), compute(parts[middle:])]


def error_for_item(error: Exception) -> ServingError:
    """Return the error for the client of the only part; the rest is for the log.

    Raises:
        BrokenDevice: the part is not to blame.
    """
    raise_if_broken(error)
    logger.error("computing an item failed", exc_info=error)
    _give_back_memory(error)
    if _is_out_of_memory(error):
        return Overloaded("there is not enough memory for this instance now", retry_after=_LATER)
    return InferenceFailed("the model failed on this instance; the server's log has the details")


def _give_back_memory(error: Exception) -> None:
    """What the failed computation held is of the wrong size for a smaller one."""
    error.__traceback__ = None  # whose frames hold tensors
    if _is_out_of_memory(error) and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    """The CPU's allocator has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in message_of(error)

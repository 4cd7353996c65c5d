"""Fallbacks for optimizations: report one that fails, and serve the model without it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from runners.kernels import CompileError

logger = logging.getLogger(__name__)

#: Longest reason in characters.
_MAX_REASON = 300


class Optimization(StrEnum):
    """Optional step of loading that makes a model faster; the value is its name in metrics.

    Attributes:
        description: description of the step for the log.
        consequence: consequence of its failure for the log.
    """

    description: str
    consequence: str

    def __new__(cls, value: str, description: str, consequence: str) -> Optimization:
        """Create a member with its descriptions."""
        member = str.__new__(cls, value)
        member._value_, member.description, member.consequence = value, description, consequence
        return member

    KERNELS = "kernels", "preparing compiled kernels", "it computes with PyTorch's operations, and slower"
    UNPADDED = "unpadded", "computing batches without padding", "batches are computed with their padding"
    TRIAL = "trial", "computing a trial input", "its weights stay as they were loaded"
    MERGE = "merge", "merging linear layers of the same input", "its weights stay as they were loaded"
    INT8 = "int8", "quantizing linear layers to int8", "its weights stay as they were loaded, QUANTIZATION is left out"
    PACK = "pack", "packing the weights of linear layers", "its weights stay as they were loaded"
    FUSE = "fuse", "installing kernels for norms, gates and rotations", "its weights stay as they were loaded"
    PROGRAM = "program", "computing all layers as one program", "layers are computed one by one"
    ATTENTION = "attention", "installing attention kernels", "attention is computed by PyTorch"
    CONTINUOUS = "continuous", "preparing continuous batching", "sequences are generated in batches that start together"
    GRAPHS = "graphs", "capturing CUDA graphs", "the GPU is given its kernels one by one"
    CALIBRATION = "calibration", "measuring the best batches", "batches have their usual size"
    ALL = "all", "loading it with optimizations", "it is served without any"


class DifferentResults(Exception):
    """Error of an optimized model whose results differ by more than rounding."""

    def __init__(self) -> None:
        super().__init__("it gives other results")


class OptimizationFailed(Exception):
    """Error of an optimization that broke the model, which must be loaded again without it.

    Attributes:
        optimization: the optimization that failed.
        reason: the cause in one line.
    """

    def __init__(self, optimization: Optimization, reason: str) -> None:
        super().__init__(f"{optimization.description}: {reason}")
        self.optimization, self.reason = optimization, reason


class Fallbacks:
    """Optimizations that failed for a model.

    Args:
        model: name of the model for the log.

    Attributes:
        failed: the failed optimizations in order, without duplicates.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self.failed: list[Optimization] = []

    def report(self, optimization: Optimization, reason: str) -> None:
        """Record that an optimization failed, and log it; repeated reports are ignored."""
        if optimization not in self.failed:
            self.failed.append(optimization)
            logger.warning(
                "%s: %s failed, so %s: %s", self._model, optimization.description, optimization.consequence, reason
            )

    @contextmanager
    def guard(self, optimization: Optimization, *, refusals: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Report and suppress errors of the body; a failed body must leave the model unchanged.

        Args:
            refusals: errors that are raised again: the kind of model does not support the optimization.
        """
        try:
            yield
        except refusals:
            raise
        except Exception as error:
            logger.debug("%s: %s failed", self._model, optimization.description, exc_info=True)
            self.report(optimization, describe_error(error))


@contextmanager
def attempt(optimization: Optimization) -> Iterator[None]:
    """Raise errors of the body as `OptimizationFailed`.

    A kernel that cannot be compiled counts as a failure of `Optimization.KERNELS`.
    """
    try:
        yield
    except CompileError as error:
        raise OptimizationFailed(Optimization.KERNELS, str(error)) from error
    except Exception as error:
        logger.debug("%s failed", optimization.description, exc_info=True)
        raise OptimizationFailed(optimization, describe_error(error)) from error


def describe_error(error: Exception) -> str:
    """Describe an error in one line."""
    line = next(iter(str(error).splitlines()), "")
    name = "" if isinstance(error, DifferentResults) else type(error).__name__
    return ": ".join(part for part in (name, line) if part)[:_MAX_REASON]

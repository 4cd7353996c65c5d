"""An optimization never costs a model: one that fails is reported, and the model is served without it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from runners.kernels import CompileError

logger = logging.getLogger(__name__)

#: Characters of a reason that are shown.
_REASON = 300


class Optimization(StrEnum):
    """A step of loading that makes a model faster and may fail; the value is its name in metrics.

    Attributes:
        doing: what was being done, for the log.
        lost: what the model is served without, for the log.
    """

    doing: str
    lost: str

    def __new__(cls, value: str, doing: str, lost: str) -> Optimization:
        """Make a member with its texts."""
        member = str.__new__(cls, value)
        member._value_, member.doing, member.lost = value, doing, lost
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
    """An optimized model computes something else than the plain one, by more than rounding."""

    def __init__(self) -> None:
        super().__init__("it gives other results")


class OptimizationFailed(Exception):
    """An optimization failed and left the model of no use: it must be loaded again, without the optimization.

    Attributes:
        optimization: the one that failed.
        reason: one line.
    """

    def __init__(self, optimization: Optimization, reason: str) -> None:
        super().__init__(f"{optimization.doing}: {reason}")
        self.optimization, self.reason = optimization, reason


class Fallbacks:
    """Optimizations that failed while a model was loaded, and that it is served without.

    Args:
        model: its name, for the log.

    Attributes:
        failed: each once, in the order in which they failed.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self.failed: list[Optimization] = []

    def report(self, optimization: Optimization, reason: str) -> None:
        """Note that an optimization failed, and log it; only once for each."""
        if optimization not in self.failed:
            self.failed.append(optimization)
            logger.warning("%s: %s failed, so %s: %s", self._model, optimization.doing, optimization.lost, reason)

    @contextmanager
    def guard(self, optimization: Optimization, *, refusals: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Report what the body raises, and go on after it; the body must leave the model as it was.

        Args:
            refusals: errors that are raised on: the model is of a kind that cannot be optimized so.
        """
        try:
            yield
        except refusals:
            raise
        except Exception as error:
            logger.debug("%s: %s failed", self._model, optimization.doing, exc_info=True)
            self.report(optimization, reason_of(error))


@contextmanager
def attempt(optimization: Optimization) -> Iterator[None]:
    """Raise what the body raises as `OptimizationFailed`: of the kernels, if one cannot be compiled."""
    try:
        yield
    except CompileError as error:
        raise OptimizationFailed(Optimization.KERNELS, str(error)) from error
    except Exception as error:
        logger.debug("%s failed", optimization.doing, exc_info=True)
        raise OptimizationFailed(optimization, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Describe an error in one line."""
    line = next(iter(str(error).splitlines()), "")
    name = "" if isinstance(error, DifferentResults) else type(error).__name__
    return ": ".join(part for part in (name, line) if part)[:_REASON]

"""Measurement of a model in a separate process.

The model is loaded as the server loads it, and the new process makes its memory measurable.
"""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from time import monotonic
from typing import Any, TypeVar

import psutil

from commands.precisions.trials import TRIALS
from hf_runtime.contract.errors import InvalidRequest, LoadError, ServingError
from hf_runtime.settings import ModelSettings
from runners.kernels.cores import THREAD_ENVIRONMENT

#: Number of instances, evenly spread, that are answered one by one.
_SINGLE_ITEMS = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PrecisionResult:
    """Speed, memory and answers of a model in one precision.

    Attributes:
        alone: items per second, one by one.
        together: items per second, all in one call.
        memory: bytes that the loaded model needs, on the GPUs if there are any.
        answers: answers to all instances, in order.
    """

    alone: float
    together: float
    memory: int
    answers: list[Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """Reason in one line why there is no result."""

    reason: str


def measure_in_process(
    settings: ModelSettings, instances: Sequence[Any] | None, seconds: float
) -> PrecisionResult | Failed:
    """Call `measure` in a separate process, and return `Failed` if the model fails.

    Raises:
        InvalidRequest: as in `measure`.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_process, args=(sender, settings, instances, seconds), daemon=True)
    with receiver, _environment(settings):
        process.start()
        # Close this copy, so that the pipe ends when the process ends.
        sender.close()
        try:
            result: PrecisionResult | Failed | InvalidRequest = receiver.recv()
        except EOFError:
            result = Failed("its process was ended, as happens to those that take too much memory")
        except BaseException:
            process.kill()
            raise
        finally:
            process.join()
    if isinstance(result, InvalidRequest):
        raise result
    return result


def measure(settings: ModelSettings, instances: Sequence[Any] | None, seconds: float) -> PrecisionResult:
    """Load a model whose task is known, and measure its speed, memory and answers.

    Args:
        instances: inputs for the model; the built-in ones if None.
        seconds: minimum duration of each of the two speed measurements; each runs at least once.

    Raises:
        LoadError: the model cannot be loaded.
        InvalidRequest: the model cannot answer one of the instances in any precision.
        ServingError: the model fails.
    """
    import torch

    from hf_runtime.contract.item import Item
    from runners.models.memory import trim_heap
    from runners.models.pretrained import prepare_torch
    from runners.registry import create_runner

    assert settings.task is not None, "this is a bug: the task was not resolved"
    trial = TRIALS[settings.task]
    prepare_torch(settings)
    runner: Any = create_runner(settings)
    before = psutil.Process().memory_info().rss
    runner.load()
    runner.warm_up()
    trim_heap()
    memory = psutil.Process().memory_info().rss - before
    if torch.cuda.is_available():
        memory = sum(map(torch.cuda.memory_allocated, range(torch.cuda.device_count())))

    chosen = trial.instances(runner.tokenizer) if instances is None else instances
    items = [Item(instance, dict(trial.parameters)) for instance in chosen]
    sample = items[:: max(len(items) // _SINGLE_ITEMS, 1)][:_SINGLE_ITEMS]
    answers, together = _measure_time(lambda: _raise_errors(runner.predict(items)), seconds)
    _, alone = _measure_time(lambda: [runner.predict([item]) for item in sample], seconds)
    return PrecisionResult(len(sample) / alone, len(items) / together, memory, answers)


def _measure_time(work: Callable[[], T], seconds: float) -> tuple[T, float]:
    """Return the result of the work, and the median of its seconds without the first round."""
    durations: list[float] = []
    while not durations or sum(durations) < seconds:
        started = monotonic()
        result = work()
        durations.append(monotonic() - started)
    return result, median(durations[1:] or durations)


def _raise_errors(answers: list[Any]) -> list[Any]:
    for number, answer in enumerate(answers, 1):
        if isinstance(answer, ServingError):
            raise answer.with_path(f"instance {number}")
    return answers


def _run_process(sender: Connection, settings: ModelSettings, instances: Sequence[Any] | None, seconds: float) -> None:
    # Ignore SIGINT, because the command stops this process itself. Hide warnings, which would mix with the table.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    sender.send(_measure_or_fail(settings, instances, seconds))


def _measure_or_fail(
    settings: ModelSettings, instances: Sequence[Any] | None, seconds: float
) -> PrecisionResult | Failed | InvalidRequest:
    try:
        return measure(settings, instances, seconds)
    except InvalidRequest as error:
        return error
    except (LoadError, ServingError) as error:
        return Failed(str(error))
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])
        for secret in settings.secrets:
            message = message.replace(secret, "[hidden]")
        return Failed(message)


@contextmanager
def _environment(settings: ModelSettings) -> Iterator[None]:
    """Set the environment of a runner's process.

    It must be set before the process starts, because libraries read it on import.
    """
    original = dict(os.environ)
    os.environ.update(
        {
            **THREAD_ENVIRONMENT,
            # Progress bars would mix with the rows of the table.
            "TQDM_DISABLE": "1",
            **settings.environment,
            **{name: value.get_secret_value() for name, value in settings.secret_environment.items()},
        }
    )
    if settings.cuda_visible_devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.cuda_visible_devices
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(original)

"""A model as the server loads it, measured in a process of its own, whose memory nothing else was in before."""

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

#: Of the instances, spread over them, are answered one by one.
_ALONE = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PrecisionResult:
    """What was measured of a model.

    Attributes:
        alone: items a second, one by one.
        together: items a second, all at once.
        memory: bytes that the loaded model takes, of the GPUs if it is there.
        answers: to all instances, in order.
    """

    alone: float
    together: float
    memory: int
    answers: list[Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is nothing to tell, in one line."""

    reason: str


def measure_in_process(
    settings: ModelSettings, instances: Sequence[Any] | None, seconds: float
) -> PrecisionResult | Failed:
    """As `measure`, in a process of its own; what goes wrong with the model is a result.

    Raises:
        InvalidRequest: as `measure`.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, settings, instances, seconds), daemon=True)
    with receiver, _environment(settings):
        process.start()
        # Only the process has it from now on, so that its end is the end of the pipe.
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
    """Load a model whose task is known and have it answer.

    Args:
        instances: the built-in ones if None.
        seconds: that answering alone, and together, is repeated for, at least once.

    Raises:
        LoadError: it cannot be loaded.
        InvalidRequest: it cannot answer one of the instances, whatever its precision.
        ServingError: it fails.
    """
    import torch

    from hf_runtime.contract.item import Item
    from runners.models.memory import give_back_memory
    from runners.models.pretrained import prepare_torch
    from runners.registry import create_runner

    assert settings.task is not None, "this is a bug: the task was to be found out before"
    trial = TRIALS[settings.task]
    prepare_torch(settings)
    runner: Any = create_runner(settings)
    before = psutil.Process().memory_info().rss
    runner.load()
    runner.warm_up()
    give_back_memory()
    memory = psutil.Process().memory_info().rss - before
    if torch.cuda.is_available():
        memory = sum(map(torch.cuda.memory_allocated, range(torch.cuda.device_count())))

    chosen = trial.instances(runner.pretrained.tokenizer) if instances is None else instances
    items = [Item(instance, dict(trial.parameters)) for instance in chosen]
    some = items[:: max(len(items) // _ALONE, 1)][:_ALONE]
    answers, together = _timed(lambda: _checked(runner.predict(items)), seconds)
    _, alone = _timed(lambda: [runner.predict([item]) for item in some], seconds)
    return PrecisionResult(len(some) / alone, len(items) / together, memory, answers)


def _timed(work: Callable[[], T], seconds: float) -> tuple[T, float]:
    """What comes of some work, and the seconds that it takes: of several rounds the median, without the first."""
    taken: list[float] = []
    while not taken or sum(taken) < seconds:
        started = monotonic()
        result = work()
        taken.append(monotonic() - started)
    return result, median(taken[1:] or taken)


def _checked(answers: list[Any]) -> list[Any]:
    for number, answer in enumerate(answers, 1):
        if isinstance(answer, ServingError):
            raise answer.located(f"instance {number}")
    return answers


def _answer(sender: Connection, settings: ModelSettings, instances: Sequence[Any] | None, seconds: float) -> None:
    # Whoever stops the command stops this process too; libraries have nothing to add to the table.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    sender.send(_result(settings, instances, seconds))


def _result(
    settings: ModelSettings, instances: Sequence[Any] | None, seconds: float
) -> PrecisionResult | Failed | InvalidRequest:
    try:
        return measure(settings, instances, seconds)
    except InvalidRequest as error:
        return error
    except (LoadError, ServingError) as error:
        return Failed(str(error))
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])
        for secret in settings.secrets:
            said = said.replace(secret, "[hidden]")
        return Failed(said)


@contextmanager
def _environment(settings: ModelSettings) -> Iterator[None]:
    """What a runner's process finds in its environment; libraries read some of it before any line of ours runs."""
    kept = dict(os.environ)
    os.environ.update(
        {
            **THREAD_ENVIRONMENT,
            # Bars would come between the rows of the table.
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
        os.environ.update(kept)

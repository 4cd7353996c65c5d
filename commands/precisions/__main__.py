"""Compare the speed, memory and answers of faster precisions with float32.

Each precision is loaded as the server loads it, one after the other. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from commands.precisions.choices import FASTER, FLOAT32, Precision, device
from commands.precisions.measuring import Failed, PrecisionResult, measure_in_process
from commands.precisions.sentences import SENTENCES
from commands.precisions.trials import TRIALS, read_instances
from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.settings import ModelSettings, SettingsError, load_settings
from runners.models.architecture import check_requested_task, resolve_task
from runners.storage.custom_code import find_custom_pipeline
from runners.storage.fetch import check_uri, fetch

_HEAD = "| Precision | items/s alone | items/s together | MiB | Answers |\n|---|---:|---:|---:|---|"


def main() -> int:
    """Print one table per model.

    The exit status is 1 if a model cannot be measured in any precision.
    """
    parser = argparse.ArgumentParser(prog="python -m commands.precisions", description=__doc__)
    parser.add_argument("config", nargs="?", type=Path, help="InferenceServices; the environment if left out")
    parser.add_argument(
        "--instances",
        type=Path,
        metavar="FILE",
        help="your own instances in JSON, one per line; recommended, because the effect of a precision depends on the "
        "instances; English sentences if left out",
    )
    parser.add_argument(
        "--seconds", type=float, default=3, help="minimum duration of each speed measurement in seconds (3)"
    )
    arguments = parser.parse_args()
    try:
        settings = load_settings(arguments.config)
        instances = read_instances(arguments.instances) if arguments.instances is not None else None
        if not settings.models:
            raise SettingsError("STORAGE_URI is not set, and no file of InferenceServices is given.")
        return max([_print_tables(model, instances, arguments.seconds) for model in settings.models])
    except SettingsError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _print_tables(model: ModelSettings, instances: Sequence[Any] | None, seconds: float) -> int:
    try:
        for line in table(model, instances, seconds):
            print(line, flush=True)
    except (LoadError, InvalidRequest) as error:
        print(f"Error: {model.name}: {error}", file=sys.stderr)
        return 1
    return 0


def table(model: ModelSettings, instances: Sequence[Any] | None, seconds: float) -> Iterator[str]:
    """Yield lines of Markdown about a model, as results arrive.

    Raises:
        LoadError: the model cannot be loaded in any precision.
        InvalidRequest: the model cannot answer one of the instances.
    """
    model = _resolve(model)
    number = f"{len(SENTENCES)} built-in" if instances is None else f"{len(instances)}"
    hardware = device()
    yield f"{model.name}: {model.task}, {number} instances, on the {'GPU' if hardware == 'cuda' else 'CPU'}\n"
    yield _HEAD
    reference = measure_in_process(FLOAT32.applied(model), instances, seconds)
    yield _row(model, FLOAT32, reference, None)
    useful = []
    results = [reference]
    for precision in FASTER[hardware]:
        if (reason := precision.lacks()) is not None:
            yield _row_without_figures(precision, f"skipped: {reason}")
            continue
        result = measure_in_process(precision.applied(model), instances, seconds)
        results.append(result)
        yield _row(model, precision, result, reference)
        useful += [precision] if isinstance(result, PrecisionResult) else []
    if not any(isinstance(result, PrecisionResult) for result in results):
        raise LoadError("it could not be measured in any precision.")
    options = ", ".join(f"{precision.name} with {precision.variable}" for precision in useful)
    yield f"\nTurn on {options}.\n" if options else "\nNo faster precision of it can be computed here.\n"


def _resolve(model: ModelSettings) -> ModelSettings:
    """Fetch the model and return its settings with the task filled in.

    Raises:
        LoadError: the model cannot be fetched, or its own code computes it.
    """
    check_uri(model)
    pipeline = find_custom_pipeline(fetch(model).folder, model)
    if pipeline is not None:
        raise LoadError(f"the code in its {pipeline.name} chooses its precision, so there is none to compare.")
    check_requested_task(model)
    return resolve_task(model)


def _row(
    model: ModelSettings,
    precision: Precision,
    result: PrecisionResult | Failed,
    reference: PrecisionResult | Failed | None,
) -> str:
    if isinstance(result, Failed):
        return _row_without_figures(precision, f"failed: {result.reason}")
    assert model.task is not None, "this is a bug: the task was not resolved"
    if reference is None:
        answers = "what others are compared with"
    elif isinstance(reference, PrecisionResult):
        answers = TRIALS[model.task].compare(reference.answers, result.answers)
    else:
        answers = "nothing to compare with"
    memory = f"{result.memory / 2**20:.0f}"
    return (
        f"| {precision.name} | {_format_rate(result.alone)} | {_format_rate(result.together)} | {memory} | {answers} |"
    )


def _row_without_figures(precision: Precision, text: str) -> str:
    """Return a row with a text in hardware of figures."""
    return f"| {precision.name} | | | | {' '.join(text.split()).replace('|', '/')} |"


def _format_rate(items: float) -> str:
    return f"{items:.2f}" if items < 10 else f"{items:.0f}"


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # Hide warnings about downloads, and about attempts that fail before one succeeds.
    logging.disable(logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    sys.exit(main())

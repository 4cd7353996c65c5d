"""Comparison of our server with its peers, and with computing without a server.

    make bench
    make bench BEFORE=HEAD~1
    .venv/bin/python -m benchmarks.serving --workloads embedding --targets ours,litserve --rounds 1 --results DIR
    .venv/bin/python -m benchmarks.serving --write-page

For each workload, all targets are started, warmed up and measured in turns, round after round, while the others wait.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from benchmarks.command import at_least, print_message, run
from benchmarks.peers import PEERS
from benchmarks.peers.peer import Peer
from benchmarks.report import gpu_name, machine
from benchmarks.serving import results, table
from benchmarks.serving.contest import Contest
from benchmarks.serving.load import check_wrk
from benchmarks.serving.ours import (
    Ours,
    OursBefore,
    OursBfloat16,
    OursDeviceMap,
    OursEightBit,
    OursFloat16,
    OursFourBit,
    OursInt8,
    before,
    described,
)
from benchmarks.serving.workloads import GPU_WORKLOADS, WORKLOADS, Workload

#: Targets on a GPU, which the peers' environments do not support.
_ON_GPU: tuple[type[Ours], ...] = (Ours, OursFloat16, OursBfloat16, OursDeviceMap, OursEightBit, OursFourBit)


def main() -> int:
    """Measure, or write the results into docs/speed.md; return the exit status."""
    options = _options()
    return run(lambda: _write_page(options) if options.write_page else _measure(options))


def _write_page(options: argparse.Namespace) -> None:
    table.write_page(results.read(options.results), results.name_of(options.results))
    print_message(f"{table.PAGE.name} is written")


def _measure(options: argparse.Namespace) -> None:
    check_wrk()
    started = monotonic()
    measured: dict[str, Any] = {}
    with ExitStack() as stack:
        targets: list[Peer] = (
            [one(api_workers=options.api_workers) for one in _ON_GPU]
            if options.gpu
            else [Ours(), OursInt8(), OursBfloat16(), *PEERS]
        )
        if options.before:
            targets.insert(3, stack.enter_context(before(options.before)))
        targets = [target for target in targets if target.key in options.targets]
        workloads = GPU_WORKLOADS if options.gpu else WORKLOADS
        for workload in (one for one in workloads if one.name in options.workloads):
            measured[workload.name] = _measure_one(workload, targets, options, started)
            _write(options, measured)  # saved now, because the next workload may be interrupted
    document = results.read(options.results)
    print(f"{table.short(document)}\n\n{table.full(document)}")
    print_message(f"done after {monotonic() - started:.0f} s; the results are in {options.results.name}")


def _measure_one(
    workload: Workload, targets: Sequence[Peer], options: argparse.Namespace, started: float
) -> dict[str, Any]:
    print_message(f"{workload.name}: starting, after {monotonic() - started:.0f} s")
    with (
        TemporaryDirectory() as folder,
        Contest(
            workload, workload.make(Path(folder) / workload.name), options.threads, options.seconds, options.gpu
        ) as contest,
    ):
        contest.start([target for target in targets if workload.name in target.workloads])
        for number in range(1, options.rounds + 1):
            print_message(f"{workload.name}: round {number} of {options.rounds}, after {monotonic() - started:.0f} s")
            contest.round(options.rounds)
        contest.finish()
        return results.result_of(contest)


def _write(options: argparse.Namespace, measured: dict[str, Any]) -> None:
    from benchmarks.serving.plot import draw

    facts = {**machine(), "revision": described(Ours().root)}
    if options.gpu:
        facts["gpu"] = gpu_name()
    named = {name: getattr(options, name) for name in ("rounds", "seconds", "threads")}
    results.write(options.results, facts, named, measured)
    draw(results.read(options.results), options.results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    workloads = [workload.name for workload in WORKLOADS]
    every: list[type[Peer] | Peer] = [Ours, OursInt8, OursBfloat16, OursBefore, *PEERS, *_ON_GPU]
    keys = list(dict.fromkeys(target.key for target in every))
    parser.add_argument("--workloads", type=_some_of(workloads), default=workloads, help=f"of {','.join(workloads)}")
    parser.add_argument("--targets", type=_some_of(keys), default=keys, help=f"of {','.join(keys)}")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="default: 3")
    parser.add_argument(
        "--seconds", type=at_least(1), default=3, help="that are counted at least, twice as many for text; default: 3"
    )
    parser.add_argument("--before", metavar="REVISION", help="measure the server of another revision, too")
    parser.add_argument("--threads", type=at_least(1), default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--gpu", action="store_true", help="models and precisions of a GPU, without peers")
    parser.add_argument(
        "--api-workers", type=at_least(1), default=1, help="with --gpu: processes of the API; default: 1"
    )
    parser.add_argument("--results", type=Path, help="folder of what is written; default: benchmarks/results")
    parser.add_argument(
        "--write-page", action="store_true", help="measure nothing; write the tables of docs/speed.md from the results"
    )
    options = parser.parse_args()
    options.results = options.results or (results.FOLDER / "gpu" if options.gpu else results.FOLDER)
    return options


def _some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return names


if __name__ == "__main__":
    sys.exit(main())

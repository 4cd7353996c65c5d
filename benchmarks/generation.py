"""Speed of text generation: plain transformers, our engine alone, and the server's clients.

    make bench-generation
    .venv/bin/python -m benchmarks.generation --rounds 1 --requests 4

All three have the same weights (float32), prompts and number of threads, generate greedily and exactly the requested
number of tokens, and take turns in each round while the others wait.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks import client
from benchmarks.children import Server, Worker
from benchmarks.command import at_least, print_message, run
from benchmarks.processes import IDLE, BenchmarkError, Child, watched
from benchmarks.prompts import Prompts, Request, sample
from benchmarks.report import table, write_json

_MODEL = ".models/SmolLM2-135M-Instruct"

#: Streams that run while a newcomer, or a long prompt, joins them.
_BESIDE_NEWCOMER, _BESIDE_LONG_PROMPT = 15, 8


class Benchmark:
    """One run of the benchmark with its started processes and its figures.

    Attributes:
        rounds: the figures of each round by name.
    """

    def __init__(self, sequential: Worker, offline: Worker, server: Server, requests: int) -> None:
        self._sequential = sequential
        self._offline = offline
        self._server = server
        self._requests = requests
        self._prompts = Prompts()
        self.rounds: list[dict[str, float]] = []

    def warm_up(self) -> None:
        """Send each process some requests that are not counted."""
        burst = self._prompts.burst(self._requests)
        burst = [Request(burst[place].prompt, 4) for place in sample(burst)]
        for worker in (self._sequential, self._offline):
            worker.ask([astuple(request) for request in burst])
        asyncio.run(client.burst(self._server.url, burst))
        self._server.wait_idle()

    def round(self) -> None:
        """Measure everything once; the order changes from round to round."""
        burst = self._prompts.burst(self._requests)
        figures: dict[str, float] = {"idle_cores": 0.0, "foreign_cores": 0.0}
        answers: dict[str, dict[int, str]] = {}
        parts: list[Callable[[], dict[str, float]]] = [
            lambda: self._ask(self._sequential, burst, sample(burst), answers),
            lambda: self._ask(self._offline, burst, range(len(burst)), answers),
            lambda: self._serve(burst, answers),
        ]
        begin = len(self.rounds) % len(parts)
        for part in parts[begin:] + parts[:begin]:
            for name, value in part().items():
                figures[name] = max(figures[name], value) if name.endswith("_cores") else value
        for one, other in (("offline", "sequential"), ("server", "sequential"), ("server", "offline")):
            figures[f"{one}_to_{other}"] = figures[f"{one}_tokens_per_second"] / figures[f"{other}_tokens_per_second"]
        for name in ("offline", "server"):
            same = [answers[name][place] == text for place, text in answers["sequential"].items()]
            figures[f"{name}_same_answers"] = sum(same) / len(same)
        self.rounds.append(figures)

    def _ask(
        self, worker: Worker, burst: Sequence[Request], places: Sequence[int], answers: dict[str, dict[int, str]]
    ) -> dict[str, float]:
        question = [astuple(burst[place]) for place in places]
        answer, figures = self._watched(worker, lambda: worker.ask(question))
        answers[worker.name] = dict(zip(places, answer["texts"], strict=True))
        return figures | {
            f"{worker.name}_tokens_per_second": answer["tokens"] / answer["seconds"],
            f"{worker.name}_requests": len(question),
            f"{worker.name}_prompt_tokens": answer["prompt_tokens"],
            f"{worker.name}_tokens": answer["tokens"],
        }

    def _serve(self, requests: Sequence[Request], answers: dict[str, dict[int, str]]) -> dict[str, float]:
        url, prompts = self._server.url, self._prompts
        beside, beside_long = min(_BESIDE_NEWCOMER, self._requests - 1), min(_BESIDE_LONG_PROMPT, self._requests)
        watches = []

        def run(measure: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
            self._server.wait_idle()
            result, watch = self._watched(self._server, lambda: asyncio.run(measure(url, *arguments)))
            watches.append(watch)
            return result

        figures: dict[str, float]
        figures, texts = run(client.burst, requests)
        answers["server"] = dict(enumerate(texts))
        alone = run(client.newcomers, prompts, 0)
        joining = run(client.newcomers, prompts, beside)
        figures |= {
            "alone_first_token_ms": alone,
            "newcomer_first_token_ms": joining,
            "newcomer_ratio": joining / alone,
            "beside_newcomer": beside,
            "beside_long_prompt": beside_long,
        }
        figures |= run(client.long_prompt, prompts, beside_long)
        self._server.wait_idle()
        figures |= {name: max(watch[name] for watch in watches) for name in watches[0]}
        return figures

    def _watched(self, busy: Child, measure: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        idle = [child for child in (self._sequential, self._offline, self._server) if child is not busy]
        with watched(idle, [busy]) as watch:
            result = measure()
        if watch.idle_cores > IDLE:
            raise BenchmarkError(f"those who should wait have used {watch.idle_cores:.2f} cores beside the {busy.name}")
        return result, {"idle_cores": watch.idle_cores, "foreign_cores": watch.foreign_cores}


def main() -> int:
    """Measure, print a table and write the figures; return the exit status."""
    options = _options()
    return run(lambda: _report(*_measure(options)))


def _report(facts: dict[str, Any], rounds: list[dict[str, float]]) -> None:
    print(table(rounds))
    print_message(f"{write_json(facts, rounds)} is written")


def _measure(options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, float]]]:
    started = monotonic()
    with ExitStack() as stack:
        print_message("loading the model three times")
        sequential = stack.enter_context(Worker("sequential", options.model, options.threads))
        offline = stack.enter_context(Worker("offline", options.model, options.threads))
        server = stack.enter_context(Server(options.model, options.threads))
        for child in (sequential, offline, server):
            child.wait_ready()
        benchmark = Benchmark(sequential, offline, server, options.requests)
        benchmark.warm_up()
        for number in range(1, options.rounds + 1):
            print_message(f"round {number} of {options.rounds}, after {monotonic() - started:.0f} s")
            benchmark.round()
        print_message(f"done after {monotonic() - started:.0f} s")
    return {"model": Path(options.model).name, **sequential.facts}, benchmark.rounds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least(1), default=3, help="default: 3")
    parser.add_argument("--requests", type=at_least(2), default=16, help="at once; default: 16")
    parser.add_argument("--model", default=_MODEL, help=f"a STORAGE_URI; default: {_MODEL}")
    parser.add_argument("--threads", type=at_least(1), default=len(os.sched_getaffinity(0)), help="default: all cores")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

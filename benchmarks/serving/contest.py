"""One workload with all its targets, measured in turns while the others wait."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command import print_message
from benchmarks.peers.peer import Peer, PeerUnavailable
from benchmarks.processes import IDLE, BenchmarkError, Child, watched
from benchmarks.serving.answers import compared
from benchmarks.serving.bounds import Offline, offline
from benchmarks.serving.load import Load, put_under_load
from benchmarks.serving.ours import Ours
from benchmarks.serving.server import TargetServer, without_folders
from benchmarks.serving.workloads import Workload

#: Clients and seconds of the warm-up, which is not counted, and its slot of texts.
_WARM_UP_CLIENTS, _WARM_UP_SECONDS, _WARM_UP = 16, 2, 0


class Contest:
    """Workload during its measurement.

    Attributes:
        targets: facts about each target, by key, with the reason if it cannot be measured.
        rounds: for each round, the figures by the key of the target; of servers, for each number of clients.
    """

    def __init__(self, workload: Workload, model: Path, threads: int, seconds: float, on_gpu: bool = False) -> None:
        self.workload = workload
        self.targets: dict[str, dict[str, Any]] = {}
        self.rounds: list[dict[str, Any]] = []
        self._model, self._threads, self._seconds = model, threads, seconds * workload.patience
        self._on_gpu = on_gpu
        self._offline: list[Offline] = []
        self._servers: dict[str, TargetServer] = {}
        self._given_up: dict[str, tuple[int, str]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *what: object) -> None:
        self._stack.close()

    @property
    def offline(self) -> dict[str, str]:
        """Return the names of the computations without a server, by key."""
        return {one.key: one.name for one in self._offline}

    def start(self, targets: Sequence[Peer]) -> None:
        """Start all targets, compare their answers and warm them up."""
        texts = self.workload.texts(_WARM_UP)
        self._offline = offline(self.workload, self._model, self._threads, self._on_gpu)
        for one in self._offline:
            self._stack.enter_context(one.worker)
        for one in self._offline:
            one.worker.wait_ready()
            one.load(texts)
        checked = texts[: self.workload.checked]
        expected = self._offline[0].answers(checked)
        for target in targets:
            about = self.targets[target.key] = {"name": target.name, "ours": isinstance(target, Ours)}
            with self._failing(target.key):
                target.install()
                about["versions"] = target.versions()
                server = TargetServer(target, self.workload, self._model, self._threads)
                self._servers[target.key] = self._stack.enter_context(server)
                about["command"] = server.shown
                server.wait_ready()
                about["start_seconds"] = round(server.start_seconds, 1)
                about["answers"] = compared(self.workload.name, expected, server.answers(checked))
                self._warm_up(server, texts)
                server.suspend()
                print_message(f"{self.workload.name}: {target.name} is ready after {server.start_seconds:.0f} s")

    def _warm_up(self, server: TargetServer, texts: Sequence[str]) -> None:
        put_under_load(server, server.bodies(texts), _WARM_UP_CLIENTS, _WARM_UP_SECONDS)
        server.rest_cores = server.rest()
        if server.rest_cores > IDLE:
            print_message(f"{server.name} computes with {server.rest_cores:.2f} cores without requests")

    def round(self, rounds: int) -> None:
        """Measure all targets once; the order changes from round to round."""
        number = len(self.rounds)
        figures: dict[str, Any] = {}
        turns: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            *((one.key, partial(self._compute, one)) for one in self._offline),
            *((key, partial(self._serve, server)) for key, server in self._servers.items()),
        ]
        begin = number * len(turns) // rounds
        for key, turn in turns[begin:] + turns[:begin]:
            with self._failing(key):
                figures[key] = turn()
        self.rounds.append(figures)

    def finish(self) -> None:
        """Record the memory of the servers at the end."""
        for key, server in self._servers.items():
            self.targets[key] |= {
                "memory_mib": round(server.memory() / 2**20),
                "rest_cores": round(server.rest_cores, 2),
            }
            if self._on_gpu:
                self.targets[key]["gpu_memory_mib"] = server.gpu_memory_mib()

    def _slot(self, turn: int) -> list[str]:
        """Return texts that are new in this round and the same for all targets."""
        return self.workload.texts(1 + len(self.rounds) * (1 + len(self.workload.connections)) + turn)

    def _compute(self, one: Offline) -> dict[str, Any]:
        return self._watched(one.worker, partial(one.measure, self._slot(0)))

    def _serve(self, server: TargetServer) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        server.resume()
        for turn, connections in enumerate(self.workload.connections, 1):
            if (why := self._gave_up(server, connections)) is not None:
                figures[str(connections)] = {"failed": why}
                continue
            bodies = server.bodies(self._slot(turn))
            load = partial(put_under_load, server, bodies, connections, self._seconds)
            try:
                figures[str(connections)] = self._watched(server, load)
            except BenchmarkError as error:
                if server.ended:
                    raise
                figures[str(connections)] = {"failed": reason(error)}
                self._given_up[server.target.key] = connections, reason(error)
                print_message(f"{self.workload.name}, {connections} clients: {error}")
            server.rest()
        server.suspend()
        return figures

    def _gave_up(self, server: TargetServer, connections: int) -> str | None:
        """Return the reason to skip a number of clients: the server failed with as many or fewer.

        Each such failure takes minutes.
        """
        clients, why = self._given_up.get(server.target.key, (connections + 1, None))
        return why if connections >= clients else None

    def _watched(self, busy: Child, measure: Callable[[], dict[str, float] | Load]) -> dict[str, Any]:
        children = [*(one.worker for one in self._offline), *self._servers.values()]
        # A server that has ended is reported when it is its turn.
        with watched([child for child in children if child is not busy and not child.ended], [busy]) as watch:
            figures = measure()
        return {
            **(asdict(figures) if isinstance(figures, Load) else figures),
            "idle_cores": watch.idle_cores,
            "foreign_cores": watch.foreign_cores,
        }

    @contextmanager
    def _failing(self, key: str) -> Iterator[None]:
        """Record an error as that of one target only.

        Without the offline computations there is nothing to compare with, so their errors are raised.
        """
        try:
            yield
        except (BenchmarkError, PeerUnavailable) as error:
            if key not in self.targets:
                raise
            self.targets[key]["failed"] = reason(error).removeprefix(f"{self.targets[key]['name']}: ")
            print_message(f"{self.workload.name}: {error}")
            if (server := self._servers.pop(key, None)) is not None:
                server.__exit__()


def reason(error: Exception) -> str:
    """Reduce an error that may come with a log to one line."""
    first, *log = str(error).splitlines() or [type(error).__name__]
    told = [line.strip() for line in log if re.search(r"error|not served", line, re.IGNORECASE)] or log
    return without_folders(": ".join([first, *told[-1:]]))[:300]

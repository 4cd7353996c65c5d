"""Memory of a server's processes while a test runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import numpy as np

from tests.e2e.server import Server


class Memory:
    """Samples of the resident memory of all processes, MiB by seconds."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stopping = threading.Event()
        self._started = monotonic()
        self.samples: list[tuple[float, float]] = []

    def run(self) -> None:
        """Add a sample each second until stopped."""
        while not self._stopping.wait(1):
            processes = [*self._server.entry_processes(), *self._server.runner_processes()]
            size = sum(process.memory_info().rss for process in processes)
            self.samples.append((monotonic() - self._started, size / 2**20))

    def stop(self) -> None:
        """Stop sampling."""
        self._stopping.set()

    @property
    def slope(self) -> float:
        """Compute MiB per hour over the last two thirds.

        The first third is left out because a server needs memory to be warm.
        """
        samples = np.asarray(self.samples[len(self.samples) // 3 :])
        return float(np.polyfit(samples[:, 0], samples[:, 1], 1)[0] * 3600)

    @property
    def growth(self) -> float:
        """Compute MiB from the median of the second third to that of the last."""
        third = len(self.samples) // 3
        sizes = [size for _, size in self.samples]
        return float(np.median(sizes[2 * third :]) - np.median(sizes[third : 2 * third]))

    def __str__(self) -> str:
        sizes = [size for _, size in self.samples]
        return f"memory {sizes[0]:.0f} to {sizes[-1]:.0f} MiB, at most {max(sizes):.0f}, slope {self.slope:+.1f} MiB/h"


@contextmanager
def watched_memory(server: Server) -> Iterator[Memory]:
    """Sample memory while the context lasts."""
    memory = Memory(server)
    thread = threading.Thread(target=memory.run)
    thread.start()
    try:
        yield memory
    finally:
        memory.stop()
        thread.join()

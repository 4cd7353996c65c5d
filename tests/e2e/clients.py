"""Clients that send a request after each answer and compare each answer with the right one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import requests

#: A client that waits longer counts as forgotten.
_PATIENCE = 60


class Clients:
    """Record of what a number of clients have observed so far.

    Args:
        right: inputs with their predictions.

    Attributes:
        outcomes: how many requests were answered with each status; `broken` counts broken connections.
        faults: errors of the server: wrong answers, refusals without a time to retry, requests without answer.
    """

    def __init__(self, url: str, right: Mapping[str, Any]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self._url = f"{url}/v1/models/model:predict"
        self._right = right
        self._news = threading.Condition()
        self._stopping = threading.Event()

    def run(self, first: int) -> None:
        """Send requests as one client until all are stopped."""
        texts = list(self._right)
        session = requests.Session()
        for text in cycle(texts[first:] + texts[:first]):
            if self._stopping.is_set():
                return
            outcome = self._ask(session, text)
            with self._news:
                self.outcomes[outcome] += 1
                self._news.notify_all()

    def _ask(self, session: requests.Session, text: str) -> str:
        try:
            response = session.post(self._url, json={"instances": [text]}, timeout=_PATIENCE)
        except requests.Timeout:
            self.faults.append(f"{text!r} was not answered")
            return "forgotten"
        except requests.RequestException:
            self._stopping.wait(0.01)  # the server may be restarting and not listening yet
            return "broken"
        if response.status_code == 200:
            if not _alike(response.json()["predictions"], [self._right[text]]):
                self.faults.append(f"{text!r} was answered with {response.text}")
        elif "Retry-After" not in response.headers or "error" not in response.json():
            self.faults.append(f"{response.status_code}: {response.headers} {response.text}")
        else:
            self._stopping.wait(0.01)
        return str(response.status_code)

    def wait_for(self, outcome: str, more: int = 1, timeout: float = _PATIENCE) -> None:
        """Block until that many more requests have ended with the outcome."""
        with self._news:
            wanted = self.outcomes[outcome] + more
            assert self._news.wait_for(lambda: self.outcomes[outcome] >= wanted, timeout), dict(self.outcomes)

    def stop(self) -> None:
        """Stop the clients after each has finished its last request."""
        self._stopping.set()


def _alike(answer: Any, right: Any) -> bool:
    """Return True if the answers are equal except for the last digits of numbers."""
    match answer, right:
        case (float(), float()):
            return abs(answer - right) < 1e-4
        case (list(), list()):
            return len(answer) == len(right) and all(map(_alike, answer, right))
        case (dict(), dict()):
            return answer.keys() == right.keys() and all(_alike(answer[key], right[key]) for key in answer)
        case _:
            return bool(answer == right)


@contextmanager
def clients(url: str, right: Mapping[str, Any], number: int) -> Iterator[Clients]:
    """Run that many clients until the end of the context."""
    together = Clients(url, right)
    threads = [threading.Thread(target=together.run, args=(i * len(right) // number,)) for i in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield together
    finally:
        together.stop()
        for thread in threads:
            thread.join()

"""KServe's own huggingfaceserver."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from benchmarks.peers.peer import Peer, PeerUnavailable


class HuggingFaceServer(Peer):
    """Named here so that the table says why it is missing."""

    name = "KServe huggingfaceserver"
    key = "kserve"
    packages = ("huggingfaceserver",)
    module = "huggingfaceserver"
    workloads = frozenset({"classification", "embedding", "generation"})

    def install(self) -> NoReturn:
        raise PeerUnavailable(f"{self.name}: not to be had from PyPI, where there is no package of its name")

    def command(self, workload: str, model: Path, port: int, threads: int, folder: Path) -> list[str]:
        raise self._unreachable

    def ready_path(self, workload: str) -> str:
        raise self._unreachable

    def path(self, workload: str) -> str:
        raise self._unreachable

    def body(self, workload: str, text: str, new_tokens: int = 32) -> dict[str, Any]:
        raise self._unreachable

    def check(self, workload: str, answer: Any) -> Any:
        raise self._unreachable

    @property
    def _unreachable(self) -> PeerUnavailable:
        return PeerUnavailable(f"{self.name} is not installed")

"""LitServe, with batches as in its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.peer import BATCH, BATCH_MS, Peer, best, one, vector


class LitServe(Peer):
    """Tokenizer and model on LitServe's batches, in one process next to its HTTP server."""

    name = "LitServe"
    key = "litserve"
    packages = ("litserve",)
    module = "litserve, transformers"
    workloads = frozenset({"classification", "embedding", "generation"})

    def command(self, workload: str, model: Path, port: int, threads: int, folder: Path) -> list[str]:
        arguments = (workload, str(model), str(port), str(threads), str(BATCH), str(BATCH_MS))
        return [*self._server("litserve_server.py"), *arguments]

    def ready_path(self, workload: str) -> str:
        return "/health"

    def path(self, workload: str) -> str:
        return "/predict"

    def body(self, workload: str, text: str, new_tokens: int = 32) -> dict[str, Any]:
        return {"text": text} | ({"new_tokens": new_tokens} if workload == "generation" else {})

    def check(self, workload: str, answer: Any) -> Any:
        if workload == "classification":
            return best([answer])
        if workload == "embedding":
            return vector(one(answer, "embedding"))
        return str(one(answer, "text")), int(one(answer, "tokens"))

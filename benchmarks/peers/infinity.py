"""Infinity, a server of embedding models and classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.checkpoint import readable
from benchmarks.peers.peer import BATCH, MODEL, Peer, best, one, vector


class Infinity(Peer):
    """Infinity's torch engine, with batches of up to 32 texts of similar length, its default."""

    name = "Infinity"
    key = "infinity"
    packages = ("infinity-emb", "sentence-transformers")
    module = "infinity_emb"
    workloads = frozenset({"classification", "embedding"})

    def command(self, workload: str, model: Path, port: int, threads: int, folder: Path) -> list[str]:
        return [
            self._script("infinity_emb"), "v2",
            "--host", "127.0.0.1", "--port", str(port),
            "--model-id", str(readable(model, folder)), "--served-model-name", MODEL,
            "--engine", "torch", "--device", "cpu", "--dtype", "float32", "--batch-size", str(BATCH),
            # The package it is made of no longer works with these versions; torch's own attention has replaced it.
            "--no-bettertransformer",
        ]  # fmt: skip

    def environment(self, threads: int) -> dict[str, str]:
        return {**super().environment(threads), "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}

    def ready_path(self, workload: str) -> str:
        return "/health"

    def path(self, workload: str) -> str:
        return "/classify" if workload == "classification" else "/embeddings"

    def body(self, workload: str, text: str, new_tokens: int = 32) -> dict[str, Any]:
        return {"model": MODEL, "input": [text]}

    def check(self, workload: str, answer: Any) -> Any:
        if workload == "classification":
            return best(one(answer, "data", 0))
        return vector(one(answer, "data", 0, "embedding"))

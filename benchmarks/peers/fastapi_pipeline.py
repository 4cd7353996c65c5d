"""FastAPI around a transformers pipeline, as people build it before they look for a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Peer, best, one, vector


class FastAPIPipeline(Peer):
    """One `pipeline`, called in FastAPI's pool of threads, without batches."""

    name = "FastAPI + pipeline"
    key = "fastapi"
    packages = ("fastapi", "uvicorn")
    module = "fastapi, uvicorn, transformers"
    workloads = frozenset({"classification", "embedding", "generation"})

    def command(self, workload: str, model: Path, port: int, threads: int, folder: Path) -> list[str]:
        return [*self._server("fastapi_server.py"), workload, str(model), str(port), str(threads)]

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
        return str(one(answer, "text")), None

"""`transformers serve`, the server in transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Peer, one


class TransformersServe(Peer):
    """`transformers serve` with continuous batching, which only generates text."""

    name = "transformers serve"
    key = "transformers-serve"
    packages = ("fastapi", "uvicorn")
    module = "transformers.cli.serve, fastapi, uvicorn, openai"
    workloads = frozenset({"generation"})

    def command(self, workload: str, model: Path, port: int, threads: int, folder: Path) -> list[str]:
        return [
            self._script("transformers"), "serve", str(model),
            "--host", "127.0.0.1", "--port", str(port),
            "--device", "cpu", "--dtype", "float32", "--continuous-batching",
        ]  # fmt: skip

    def ready_path(self, workload: str) -> str:
        return "/health"

    def path(self, workload: str) -> str:
        return "/v1/completions"

    def body(self, workload: str, text: str, new_tokens: int = 32) -> dict[str, Any]:
        # The model is the one that it was started with. No token ends the text.
        config = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": -1}
        return {"prompt": text, "generation_config": json.dumps(config)}

    def check(self, workload: str, answer: Any) -> Any:
        return str(one(answer, "choices", 0, "text")), int(one(answer, "usage", "completion_tokens"))

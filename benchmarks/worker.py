"""Worker that generates bursts without a server: plain transformers or our engine.

Plain transformers computes one request after the other, our engine all together.

    python -m benchmarks.worker sequential|offline MODEL THREADS

It prints one line of JSON about itself, then answers each burst, a line `[[prompt, new tokens], …]`, with one line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from hf_runtime.contract.errors import ServingError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.generate.transformers_generator import TransformersGenerator
from runners.models.pretrained import load_pretrained, prepare_torch
from runners.storage.fetch import fetch
from runners.tasks.text_generation import TextGenerationRunner

#: New texts, the numbers of their tokens, and the total number of prompt tokens.
Answers = tuple[list[str], list[int], int]
Burst = Sequence[tuple[str, int]]


def sequential(settings: ModelSettings) -> tuple[Any, Callable[[Burst], Answers]]:
    """Load the model of plain transformers; return it with a function that calls `generate`."""
    pretrained = load_pretrained(AutoModelForCausalLM, fetch(settings), settings)
    model: Any = pretrained.model
    model.generation_config.eos_token_id = None  # answers have exactly the requested length
    tokenizer: Any = pretrained.tokenizer

    def compute(burst: Burst) -> Answers:
        texts, counts, read = [], [], 0
        for prompt, new_tokens in burst:
            inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
            length = inputs["input_ids"].shape[1]
            output = model.generate(
                **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
            tokens = output[0, length:].tolist()
            texts.append(tokenizer.decode(tokens, skip_special_tokens=True))
            counts.append(len(tokens))
            read += length
        return texts, counts, read

    return model, compute


def offline(settings: ModelSettings) -> tuple[Any, Callable[[Burst], Answers]]:
    """Load our runner's model; return it with a function that computes all requests together."""
    runner = TextGenerationRunner(settings)
    runner.load()
    runner.warm_up()

    def compute(burst: Burst) -> Answers:
        options = {"ignore_eos": True, "return_full_text": False, "details": True}
        results = runner.predict([Item(prompt, {**options, "max_new_tokens": tokens}) for prompt, tokens in burst])
        for result in results:
            if isinstance(result, ServingError):
                raise result
        answers = [answer for (answer,) in results]
        assert not any(answer["cached_tokens"] for answer in answers), "a prompt was read before"
        return (
            [answer["generated_text"] for answer in answers],
            [answer["generated_tokens"] for answer in answers],
            sum(answer["prompt_tokens"] for answer in answers),
        )

    generator = runner.generator
    assert isinstance(generator, TransformersGenerator)
    return generator.pretrained.model, compute


def main() -> None:
    """Answer bursts until the input ends."""
    kind, uri, threads = sys.argv[1:]
    # Output of libraries must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    settings = ModelSettings(
        name=kind, storage_uri=uri, task="text-generation", torch_dtype="float32", torch_threads=int(threads)
    )
    prepare_torch(settings)
    model, compute = {"sequential": sequential, "offline": offline}[kind](settings)
    facts = {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "attention": model.config._attn_implementation,
    }
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        burst = json.loads(line)
        started = perf_counter()
        texts, counts, read = compute(burst)
        seconds = perf_counter() - started
        assert counts == [tokens for _, tokens in burst], f"{counts} tokens were written for {burst}"
        answer = {"seconds": seconds, "texts": texts, "tokens": sum(counts), "prompt_tokens": read}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Promise: sequences join and leave the batch at any token, and none waits for ever.

Memory stays within its budget.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_runtime.settings import ModelSettings
from runners.engines.generate.cache import KVCache
from runners.engines.generate.continuous import ContinuousDecoder
from runners.engines.generate.incremental_model import IncrementalModel
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.sequence import SequenceState
from runners.engines.generate.step import Step
from runners.engines.generation_request import GenerationRequest, Sampling
from runners.engines.rows import BatchLimits
from runners.kernels.fallbacks import Fallbacks
from runners.models.pretrained import Pretrained
from runners.tasks.text_generation import TextGenerationRunner
from tests.generators import generator_of
from tests.tiny import CONTEXT, CORPUS, llama_model


class Bench:
    """Decoder with the limits of a test, and sequences for it."""

    def __init__(self, pretrained: Pretrained, *, budget: int = 4096, rows: int = 8, tokens: int = 64) -> None:
        self.model = GenerationModel(pretrained)
        pretrained.model.set_attn_implementation("sdpa")
        stepping = IncrementalModel(self.model, Fallbacks("test"), kernels=self.model.kernels)
        self.cache = KVCache(stepping.layers, budget=budget, slab_tokens=512, max_rows=rows, max_length=CONTEXT)
        self.decoder = ContinuousDecoder(self.model, stepping, self.cache, BatchLimits(rows, tokens))
        self.told: list[list[SequenceState]] = []
        self.decoder.on_tokens = self.told.append

    def sequence(self, prompt: str, new: int, **options: Any) -> SequenceState:
        ids = self.model.tokenizer(prompt)["input_ids"]
        request = GenerationRequest(input_ids=ids, max_new_tokens=new, ignore_eos=True, **options)
        return SequenceState(request, self.model)

    def add(self, prompt: str, new: int, **options: Any) -> SequenceState:
        sequence = self.sequence(prompt, new, **options)
        self.decoder.add(sequence)
        return sequence

    def run(self) -> None:
        while self.decoder.busy:
            self.decoder.step()

    def alone(self, prompt: str, new: int, **options: Any) -> list[int]:
        """Generate the sequence without other rows, by `generate` where that is possible."""
        if options:
            sequence = self.add(prompt, new, **options)
            self.run()
            return sequence.tokens
        model = self.model.model
        model.set_attn_implementation("sdpa")
        ids = torch.tensor([self.model.tokenizer(prompt)["input_ids"]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
        model.set_attn_implementation("sequences")
        tokens: list[int] = out[0, ids.shape[1] :].tolist()
        return tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("llama"), eos_token_id=None)


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> Pretrained:
    return _load(folder)


def _load(folder: Path, **options: Any) -> Pretrained:
    runner = TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text-generation", **options))
    runner.load()
    generator_of(runner).model.eos = frozenset()
    return generator_of(runner).pretrained


Make = Callable[..., Bench]


@pytest.fixture
def bench(pretrained: Pretrained) -> Make:
    return lambda **options: Bench(pretrained, **options)


def test_a_sequence_joins_between_any_two_tokens_and_changes_no_other(bench: Make) -> None:
    made = bench()
    prompts = [text[: 5 + 9 * i] for i, text in enumerate(CORPUS)]
    expected = [made.alone(prompt, 12 + 3 * i) for i, prompt in enumerate(prompts)]
    sequences = []
    for i, prompt in enumerate(prompts):
        sequences.append(made.add(prompt, 12 + 3 * i))
        for _ in range(i % 3 + 1):
            made.decoder.step()
    made.run()
    assert [sequence.tokens for sequence in sequences] == expected
    assert not made.cache.slabs or made.cache.tokens <= made.cache.budget


def test_random_numbers_of_a_sequence_do_not_depend_on_the_batch(bench: Make) -> None:
    made = bench()
    drawn = {"sampling": Sampling(1.3, 30, 0.9, 11)}
    alone = made.alone(CORPUS[0], 20, **drawn)
    company = [made.add(text, 25, sampling=Sampling(2.0, 0, 1.0, i)) for i, text in enumerate(CORPUS[1:4])]
    made.decoder.step()
    joined = made.add(CORPUS[0], 20, **drawn)
    made.run()
    assert joined.tokens == alone
    assert len({tuple(sequence.tokens) for sequence in company}) == 3


def test_a_long_prompt_is_prefilled_in_chunks_while_others_continue(bench: Make) -> None:
    made = bench(tokens=10)
    writing = made.add("The", 60)
    made.decoder.step()
    prompt = " ".join(CORPUS)[:180]
    reading = made.add(prompt, 5)
    steps = 0
    while not reading.tokens:
        before = len(writing.tokens)
        made.decoder.step()
        assert len(writing.tokens) == before + 1
        steps += 1
    assert steps >= len(reading.request.input_ids) // 10
    made.run()
    assert reading.tokens == made.alone(prompt, 5)
    assert writing.tokens == made.alone("The", 60)


def test_a_short_prompt_does_not_wait_for_a_long_one(bench: Make) -> None:
    made = bench(tokens=8)
    long = made.add(" ".join(CORPUS)[:180], 5)
    made.decoder.step()
    short = made.add("I", 5)
    made.decoder.step()
    assert short.tokens
    assert not long.tokens


def test_a_cancelled_sequence_ends_within_one_step(bench: Make) -> None:
    made = bench(rows=2)
    leaving = [made.add(text, 90) for text in CORPUS[:2]]
    made.decoder.step()
    waiting = made.add(CORPUS[2], 5)
    made.decoder.step()
    assert not waiting.tokens
    for sequence in leaving:
        sequence.cancelled = True
    before = [len(sequence.tokens) for sequence in leaving]
    made.decoder.step()
    assert waiting.tokens
    assert [len(sequence.tokens) for sequence in leaving] == before
    made.run()
    assert waiting.tokens == made.alone(CORPUS[2], 5)


def test_a_sequence_without_memory_waits_and_the_budget_holds(bench: Make) -> None:
    made = bench(budget=300)
    prompts = [text[:20] for text in CORPUS]
    expected = [made.alone(prompt, 60) for prompt in prompts]
    sequences = [made.add(prompt, 60) for prompt in prompts]
    while made.decoder.busy:
        made.decoder.step()
        assert made.cache.tokens <= 300
    assert [sequence.tokens for sequence in sequences] == expected


def test_a_growing_sequence_preempts_the_youngest_which_loses_no_text(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.engines.generate.cache._MIN_CAPACITY", 16)
    monkeypatch.setattr("runners.engines.generate.continuous._HEADROOM", 1)
    made = bench(budget=200)
    prompts = [text[:12] for text in CORPUS[:5]]
    options = [{"sampling": Sampling(1.5, 0, 1.0, i)} for i in range(5)]
    expected = [made.alone(prompt, 70, **option) for prompt, option in zip(prompts, options, strict=True)]
    sequences = [made.add(prompt, 70, **option) for prompt, option in zip(prompts, options, strict=True)]
    while made.decoder.busy:
        made.decoder.step()
        assert made.cache.tokens <= 200
    assert [sequence.tokens for sequence in sequences] == expected


def test_a_sequence_that_waits_for_memory_is_overtaken_but_not_for_ever(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.engines.generate.cache._MIN_CAPACITY", 16)
    monkeypatch.setattr("runners.engines.generate.continuous._MAX_OVERTAKING", 3)
    made = bench(budget=160, rows=8)
    made.add("The", 60)
    made.decoder.step()
    huge = made.add(" ".join(CORPUS)[:160], 30)
    order: list[SequenceState] = []
    made.decoder.on_tokens = lambda told: order.extend(s for s in told if s not in order)
    small = [made.add("I", 4) for _ in range(12)]
    made.run()
    assert small[0] in order[: order.index(huge)]
    assert small[-1] in order[order.index(huge) :]
    assert all(sequence.finish_reason == "length" for sequence in [huge, *small])


def test_a_cached_prefix_is_not_prefilled_again(bench: Make) -> None:
    made = bench()
    system = " ".join(CORPUS)[:120]
    expected = [made.alone(f"{system} {word}", 8) for word in ("one", "two", "three")]
    shared = len(made.model.tokenizer(system)["input_ids"])
    first, second = (made.add(f"{system} {word}", 8) for word in ("one", "two"))
    made.run()
    third = made.add(f"{system} three", 8)  # long after the others have ended
    made.run()
    assert [sequence.tokens for sequence in (first, second, third)] == expected
    assert first.cached_tokens == 0
    assert second.cached_tokens >= shared - 1
    assert third.cached_tokens >= shared - 1


def test_cached_prefixes_are_evicted_for_running_sequences(bench: Make) -> None:
    made = bench(budget=400)
    for text in CORPUS:
        made.add(text, 5)
        made.run()
    assert made.cache.tokens > 0
    sequences = [made.add(text[:20], 90) for text in CORPUS[:3]]
    made.decoder.step()
    made.decoder.step()
    assert all(sequence.tokens for sequence in sequences)
    made.run()
    assert made.cache.tokens <= 400


def test_a_failed_step_ends_only_the_sequence_that_caused_it(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench()
    expected = [made.alone(text, 10) for text in CORPUS[:3]]
    marked = made.model.tokenizer("😈")["input_ids"][-1]
    stepping = made.decoder._incremental_model
    forward = stepping.forward

    def failing(step: Step, wanted: torch.Tensor) -> torch.Tensor:
        if (step.input_ids == marked).any():
            raise RuntimeError("no such token")
        return forward(step, wanted)

    monkeypatch.setattr(stepping, "forward", failing)
    sequences = [made.add(text, 10) for text in CORPUS[:3]]
    made.decoder.step()
    culprit = made.add("oh 😈", 10)
    made.run()
    assert culprit.error is not None
    assert culprit.error.code == "inference_failed"
    assert [sequence.tokens for sequence in sequences] == expected


def test_overflowing_values_end_one_sequence_with_a_reason(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench()
    expected = made.alone("The", 10)
    stepping = made.decoder._incremental_model
    forward = stepping.forward

    def overflowing(*arguments: Any) -> torch.Tensor:
        logits = forward(*arguments)
        if len(logits) > 1:
            logits[1] = torch.nan
        return logits

    monkeypatch.setattr(stepping, "forward", overflowing)
    first, second = made.add("The", 10), made.add("Paris", 10)
    made.run()
    assert first.tokens == expected
    assert second.error is not None
    assert "TORCH_DTYPE" in second.error.message


def test_other_rows_change_logits_only_by_the_rounding_of_the_precision(
    folder: Path,
) -> None:
    # Greedy text does not depend on the batch in float32; in bfloat16, two candidates that are closer than its rounding
    # may swap.
    prompts = [text[:25] for text in CORPUS]

    def first_logits(pretrained: Pretrained, prompts: list[str]) -> torch.Tensor:
        """Return the logits of the first prompt's first token."""
        made = Bench(pretrained)
        forward = made.decoder._incremental_model.forward
        seen: list[torch.Tensor] = []

        def remembered(*arguments: Any) -> torch.Tensor:
            logits = forward(*arguments)
            seen.append(logits[0].float().clone())
            return logits

        made.decoder._incremental_model.forward = remembered  # type: ignore[assignment]
        for prompt in prompts:
            made.add(prompt, 1)
        made.decoder.step()
        return seen[0]

    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 5e-2)):
        pretrained = _load(folder, torch_dtype=dtype)
        alone, together = first_logits(pretrained, prompts[:1]), first_logits(pretrained, prompts)
        assert float((alone - together).abs().max()) <= tolerance * float(alone.abs().max())


def test_a_client_that_leaves_during_a_preemption_leaks_no_memory(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench()
    answers: list[bool] = []

    class Leaving(SequenceState):
        @property
        def finished(self) -> bool:
            # Another thread cancels it just after the first read of this property.
            answers.append(super().finished)
            self.cancelled = True
            return answers[-1]

    made.decoder.add(Leaving(made.sequence("The", 50).request, made.model))
    made.run()
    assert answers[-1]
    made.decoder._prefixes.clear()
    assert all(not slab.slots or slab.size == 1 for slab in made.cache.slabs)


def test_values_of_an_overflowed_sequence_do_not_reach_the_next_one_in_its_slot(bench: Make) -> None:
    made = bench()
    expected, older = made.alone("I", 12), made.alone(CORPUS[0], 60)
    made = bench()
    running = made.add(CORPUS[0], 60)
    poisoned = made.add(CORPUS[1], 30)
    made.decoder.step()
    made.decoder.step()
    for slab in made.cache.slabs:
        for slot in slab.slots:
            if slot is made.decoder._running[1].slot:
                slab.keys[0][slot.index] = torch.nan
                slab.values[0][slot.index] = torch.nan
    made.decoder.step()
    assert poisoned.error is not None
    innocent = made.add("I", 12)
    made.run()
    assert innocent.error is None
    assert innocent.tokens == expected
    assert running.tokens == older


def test_a_failed_allocation_lets_one_sequence_wait_and_none_hang(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench()
    expected = [made.alone(text, 6) for text in CORPUS[:2]]
    made = bench()

    def none(*_: Any) -> None:
        raise MemoryError

    first = made.add(CORPUS[0], 6)
    made.decoder.step()
    with monkeypatch.context() as patch:
        patch.setattr("runners.engines.generate.cache.Slab", none)
        second = made.add(CORPUS[1], 6)
        made.run()
        assert first.tokens == expected[0]
        made.decoder._prefixes.clear()
        made.cache.clear()
        third = made.add(CORPUS[2], 6)
        made.run()
        assert third.error is not None
        assert "memory" in third.error.message
    assert second.tokens == expected[1] or second.error is not None


def test_an_abandoned_decoder_is_empty_and_usable(bench: Make) -> None:
    made = bench()
    expected = made.alone(CORPUS[0], 6)
    sequences = [made.add(text, 30) for text in CORPUS]
    made.decoder.step()
    assert set(made.decoder.abandon()) == set(sequences)
    assert not made.decoder.busy
    assert made.cache.tokens == 0
    again = made.add(CORPUS[0], 6)
    made.run()
    assert again.tokens == expected


def test_a_small_budget_serves_many_lengths_without_evicting_all(bench: Make) -> None:
    made = bench(budget=2048, rows=64)
    sequences = [made.add(CORPUS[i % 6][: 5 + i % 40], 5 + (7 * i) % 90) for i in range(60)]
    fewest = 64
    while made.decoder.busy:
        made.decoder.step()
        if made.decoder._waiting:
            fewest = min(fewest, len(made.decoder._running))
    assert all(sequence.finish_reason == "length" for sequence in sequences)
    assert fewest >= 5

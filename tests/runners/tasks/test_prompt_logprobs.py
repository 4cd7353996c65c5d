"""Promise: the log probabilities of a prompt's tokens are those of transformers, in any company, from any decoder."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, BloomForCausalLM

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.generate import continuous, static
from runners.engines.generate.continuous import ContinuousDecoder
from runners.engines.generate.static import StaticDecoder
from runners.engines.generation_engine import GenerationEngine
from runners.tasks.text2text_generation import Text2TextGenerationRunner
from runners.tasks.text_generation import TextGenerationRunner
from tests.e2e.checkpoints import text2text_generation
from tests.generators import generator_of
from tests.tiny import CORPUS, byte_level_tokenizer, llama_model, save

SCORE: dict[str, Any] = {"max_new_tokens": 0, "prompt_logprobs": 2, "details": True}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose attention cannot be replaced, so that batches are static."""
    tokenizer = byte_level_tokenizer()
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2, initializer_range=0.5,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return save(tmp_path_factory.mktemp("bloom"), BloomForCausalLM, config, tokenizer)


@pytest.fixture(scope="module")
def beams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("beams"), num_beams=3)


@pytest.fixture(params=["llama", "bloom", "beams"])
def folder(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def _runner(folder: Path, **settings: Any) -> TextGenerationRunner:
    runner = TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text-generation", **settings))
    runner.load()
    return runner


def _score(runner: TextGenerationRunner, *prompts: Any, **parameters: Any) -> list[Any]:
    return [answer[0] for answer in runner.predict([Item(prompt, {**SCORE, **parameters}) for prompt in prompts])]


class Plain:
    """transformers alone."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def check(self, prompt: str, scored: list[Any], top: int = 2) -> None:
        ids = self.tokenizer(prompt)["input_ids"]
        with torch.inference_mode():
            logprobs = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        assert [token["id"] for token in scored] == ids
        first, *later = scored
        assert (first["logprob"], first["rank"], first["top"]) == (None, None, [])
        for token, row in zip(later, logprobs, strict=False):
            own = row[token["id"]]
            assert token["logprob"] == pytest.approx(float(own), abs=1e-3)
            assert token["rank"] == int((row > own).sum()) + 1
            values, likeliest = row.topk(top)
            assert [other["id"] for other in token["top"]] == likeliest.tolist()
            assert [other["logprob"] for other in token["top"]] == pytest.approx(values.tolist(), abs=1e-3)


def test_each_decoder_scores_prompts_of_a_batch_as_transformers_does(folder: Path) -> None:
    runner, plain = _runner(folder), Plain(folder)
    for prompt, answer in zip(CORPUS, _score(runner, *CORPUS), strict=True):
        plain.check(prompt, answer["prompt_logprobs"])
        assert (answer["generated_text"], answer["finish_reason"], answer["generated_tokens"]) == (prompt, "length", 0)


def test_the_decoders_of_these_tests_differ(llama: Path, bloom: Path, beams: Path) -> None:
    kinds = [type(generator_of(_runner(folder)).decoder) for folder in (llama, bloom, beams)]
    assert kinds == [ContinuousDecoder, StaticDecoder, StaticDecoder]


def test_generated_text_is_the_same_with_and_without_them(folder: Path) -> None:
    runner = _runner(folder)
    options = {"max_new_tokens": 6, "return_full_text": False}
    expected = _score(runner, *CORPUS[:3], **options, prompt_logprobs=None)
    scored = _score(runner, *CORPUS[:3], **options)
    assert [answer["generated_text"] for answer in scored] == [answer["generated_text"] for answer in expected]
    assert "prompt_logprobs" not in expected[0]


@pytest.mark.parametrize("rows", [1, 3])
def test_long_prompts_are_scored_in_parts(llama: Path, bloom: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    for module in (continuous, static):
        monkeypatch.setattr(module, "_PROMPT_LOGITS", rows * len(byte_level_tokenizer()))
    prompts = [CORPUS[0] + CORPUS[1], CORPUS[2], "I"]
    for folder in (llama, bloom):
        plain, runner = Plain(folder), _runner(folder)
        for prompt, answer in zip(prompts, _score(runner, *prompts), strict=True):
            plain.check(prompt, answer["prompt_logprobs"])


def test_a_step_computes_no_more_logits_of_prompts_than_allowed(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "_PROMPT_LOGITS", 8 * len(byte_level_tokenizer()))
    runner = _runner(llama)
    decoder: Any = generator_of(runner).decoder
    forward, rows = decoder._incremental_model.forward, list[int]()

    def count(step: Any, wanted: torch.Tensor) -> Any:
        rows.append(len(wanted))
        return forward(step, wanted)

    monkeypatch.setattr(decoder._incremental_model, "forward", count)
    _score(runner, *CORPUS)
    assert max(rows) <= 8


def test_a_cached_prefix_is_computed_again_for_its_log_probabilities(llama: Path) -> None:
    runner, plain = _runner(llama), Plain(llama)
    prompt = CORPUS[0] + CORPUS[1]
    for _ in range(2):
        (free,) = _score(runner, prompt, prompt_logprobs=None, max_new_tokens=2)
    assert free["cached_tokens"] > 0
    (scored,) = _score(runner, prompt)
    assert scored["cached_tokens"] == 0
    plain.check(prompt, scored["prompt_logprobs"])
    # Others still find it.
    (after,) = _score(runner, prompt, prompt_logprobs=None, max_new_tokens=2)
    assert after["cached_tokens"] > 0


def test_others_generate_in_the_same_steps(llama: Path) -> None:
    runner, plain = _runner(llama), Plain(llama)
    free = {"max_new_tokens": 9, "return_full_text": False}
    (alone,) = runner.predict([Item(CORPUS[1], free)])
    first, scored, last = runner.predict([Item(CORPUS[1], free), Item(CORPUS[0], SCORE), Item(CORPUS[1], free)])
    assert first == last == alone
    plain.check(CORPUS[0], scored[0]["prompt_logprobs"])


def test_they_survive_a_sequence_that_is_preempted(llama: Path) -> None:
    runner, plain = _runner(llama, kv_cache_memory=256 * 2 * 2 * 2 * 8 * 4), Plain(llama)
    options = {"max_new_tokens": 60, "ignore_eos": True}
    for prompt, answer in zip(CORPUS, _score(runner, *CORPUS, **options), strict=True):
        plain.check(prompt, answer["prompt_logprobs"])
        assert answer["generated_tokens"] == 60


def test_a_prompt_of_one_token_has_one_entry_without_a_number(folder: Path) -> None:
    (answer,) = _score(_runner(folder), [5])
    (first,) = answer["prompt_logprobs"]
    assert (first["id"], first["logprob"]) == (5, None)


def test_the_first_delta_of_a_stream_carries_them(llama: Path) -> None:
    runner, told = _runner(llama), list[Any]()

    class Listener:
        def on_accepted(self) -> None:
            pass

        def on_delta(self, delta: Any) -> None:
            told.append(delta)

    async def stream() -> None:
        with ThreadPoolExecutor(1) as compute:
            engine = GenerationEngine(runner, max_queue_size=8, compute=compute)
            task = asyncio.create_task(engine.run())
            await engine.submit(Item(CORPUS[0], {**SCORE, "max_new_tokens": 3, "ignore_eos": True}), Listener())
            await engine.submit(Item(CORPUS[0], {**SCORE, "return_full_text": True}), Listener())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(stream())
    carrying = [delta for delta in told if "prompt_logprobs" in delta]
    assert carrying == [told[0], told[-1]]
    for delta in carrying:
        Plain(llama).check(CORPUS[0], delta["prompt_logprobs"])
    assert (told[-1]["generated_text"], told[-1]["finish_reason"]) == (CORPUS[0], "length")


def test_nothing_can_be_generated_only_where_the_prompt_is_answered(llama: Path) -> None:
    runner = _runner(llama)
    (refused,) = runner.predict([Item("a", {"max_new_tokens": 0})])
    assert isinstance(refused, InvalidRequest)
    assert refused.field == "parameters.max_new_tokens"
    (echoed,) = runner.predict([Item("Hello", {"max_new_tokens": 0, "return_full_text": True})])
    assert echoed == [{"generated_text": "Hello"}]


def test_a_prompt_that_fills_the_context_is_scored(llama: Path) -> None:
    runner, plain = _runner(llama), Plain(llama)
    limit = generator_of(runner).max_length
    assert limit is not None
    ids = [5 + i % 300 for i in range(limit)]
    (answer,) = _score(runner, ids)
    assert len(answer["prompt_logprobs"]) == limit
    with torch.inference_mode():
        logprobs = plain.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = logprobs[torch.arange(limit - 1), ids[1:]].tolist()
    assert [token["logprob"] for token in answer["prompt_logprobs"][1:]] == pytest.approx(expected, abs=1e-3)


def test_an_encoder_decoder_model_refuses_by_name(tmp_path: Path) -> None:
    settings = ModelSettings(storage_uri=str(text2text_generation(tmp_path)), task="text2text-generation")
    runner = Text2TextGenerationRunner(settings)
    runner.load()
    (refused,) = runner.predict([Item("Hello", {"prompt_logprobs": 1})])
    assert isinstance(refused, InvalidRequest)
    assert refused.field == "parameters.prompt_logprobs"

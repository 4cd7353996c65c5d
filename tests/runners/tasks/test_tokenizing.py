"""Promises of a tokenizer that is used alone: the tokens are those that the model reads, and nothing is computed."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertModel

from hf_runtime.contract.errors import InvalidRequest, Overloaded
from hf_runtime.contract.item import Item
from hf_runtime.contract.tokenization import Detokenize, TokenizeChat, TokenizerAnswer, TokenizerRequest, TokenizeText
from hf_runtime.settings import ModelSettings
from runners.engines.batch.engine import BatchEngine
from runners.engines.generation_engine import GenerationEngine
from runners.engines.runner import Runner
from runners.tasks.feature_extraction import FeatureExtractionRunner
from runners.tasks.text2text_generation import Text2TextGenerationRunner
from runners.tasks.text_generation import TextGenerationRunner
from tests.e2e.checkpoints import text2text_generation
from tests.scripted import ScriptedRunner
from tests.tiny import bert_config, llama_model, save, wordpiece_tokenizer

TEXT = "The capital of France is Paris."
CHAT: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tokenizer = wordpiece_tokenizer()
    bert = save(tmp_path_factory.mktemp("bert"), BertModel, bert_config(tokenizer), tokenizer)
    return {
        "text-generation": llama_model(tmp_path_factory.mktemp("llama")),
        "text2text-generation": text2text_generation(tmp_path_factory.mktemp("t5")),
        "feature-extraction": bert,
    }


@pytest.fixture(scope="module")
def runners(folders: dict[str, Path]) -> dict[str, Runner[Any, Any, Any, Any]]:
    kinds = (TextGenerationRunner, Text2TextGenerationRunner, FeatureExtractionRunner)
    loaded: dict[str, Runner[Any, Any, Any, Any]] = {}
    for kind, (task, folder) in zip(kinds, folders.items(), strict=True):
        runner: Any = kind(ModelSettings(storage_uri=str(folder), task=task, max_text_length=100))
        runner.load()
        loaded[task] = runner
    return loaded


TASKS = ("text-generation", "text2text-generation", "feature-extraction")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("special", [True, False])
def test_tokens_are_those_of_transformers_and_come_back_as_text(
    folders: dict[str, Path], runners: dict[str, Runner[Any, Any, Any, Any]], task: str, special: bool
) -> None:
    plain = AutoTokenizer.from_pretrained(folders[task])
    answer = runners[task].use_tokenizer(TokenizeText(TEXT, special, with_names=True))
    assert answer["tokens"] == plain(TEXT, add_special_tokens=special)["input_ids"]
    assert answer["token_strs"] == plain.convert_ids_to_tokens(answer["tokens"])
    assert answer["max_length"]
    back = runners[task].use_tokenizer(Detokenize(answer["tokens"]))
    assert back["text"] == plain.decode(answer["tokens"])
    assert runners[task].use_tokenizer(TokenizeText(TEXT))["token_strs"] is None


def test_tokens_of_a_text_and_of_a_chat_are_those_that_are_computed(
    runners: dict[str, Runner[Any, Any, Any, Any]],
) -> None:
    runner = runners["text-generation"]
    for instance, request in ((TEXT, TokenizeText(TEXT)), (CHAT, TokenizeChat({"messages": CHAT}))):
        job = runner.prepare_item(Item(instance, {"max_new_tokens": 1}))
        assert runner.use_tokenizer(request)["tokens"] == job.rows[0].inputs.input_ids


@pytest.mark.parametrize(
    ("task", "request_", "said"),
    [
        ("feature-extraction", TokenizeChat({"messages": CHAT}), "no chat template"),
        ("text-generation", TokenizeChat({"messages": []}), "messages: "),
        ("text-generation", Detokenize([0, 10**6]), r"tokens\[1\]: must be a token of the model"),
        ("text-generation", Detokenize([-1]), r"tokens\[0\]: "),
        ("feature-extraction", TokenizeText("a" * 101), "MAX_TEXT_LENGTH"),
        ("text-generation", TokenizeChat({"messages": [{"role": "user", "content": "a" * 101}]}), "MAX_TEXT_LENGTH"),
    ],
)
def test_what_cannot_be_tokenized_is_refused(
    runners: dict[str, Runner[Any, Any, Any, Any]], task: str, request_: TokenizerRequest, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        runners[task].use_tokenizer(request_)


def test_a_language_of_another_item_does_not_stay(runners: dict[str, Runner[Any, Any, Any, Any]]) -> None:
    runner: Any = runners["text2text-generation"]
    calls = []

    class Tokenizer:
        src_lang = "deu"

        def __len__(self) -> int:
            return 9

        def __call__(self, text: str, **_: Any) -> Any:
            calls.append(self.src_lang)
            return {"input_ids": [1]}

    changed = Text2TextGenerationRunner(runner.settings)
    changed._languages, changed._default_src_lang = {"eng": 1, "deu": 2}, "eng"

    class Changed:
        tokenizer = Tokenizer()
        input_vocabulary = vocabulary = 9
        max_length = None

    changed.generator = Changed()  # type: ignore[assignment]
    changed.use_tokenizer(TokenizeText("a"))
    assert calls == ["eng"]


def test_a_tokenizer_answers_while_the_model_generates(runners: dict[str, Runner[Any, Any, Any, Any]]) -> None:
    runner: Any = runners["text-generation"]

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as compute:
            engine = GenerationEngine(runner, max_queue_size=1, compute=compute)
            running = asyncio.create_task(engine.run())
            gate = threading.Event()
            blocked = compute.submit(gate.wait, 30)
            try:
                waiting = engine.submit(Item(TEXT, {"max_new_tokens": 1}))
                answer = await asyncio.wait_for(engine.use_tokenizer(TokenizeText(TEXT)), 30)
                assert len(answer["tokens"]) > 1
                assert not waiting.done()
            finally:
                gate.set()
                blocked.result()
                await asyncio.wait_for(waiting, 30)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


class _Slow(ScriptedRunner):
    """A model whose tokenizer waits for the gate."""

    def tokenize(self, request: TokenizerRequest) -> TokenizerAnswer:
        assert self.gate.wait(30), "the test forgot to open the gate"
        assert isinstance(request, TokenizeText)
        if request.text == "bug":
            raise RuntimeError("a bug")
        return {"tokens": [1], "token_strs": None, "text": None, "max_length": None}


def test_requests_for_the_tokenizer_wait_in_a_bounded_queue_and_may_be_cancelled() -> None:
    async def scenario() -> None:
        runner = _Slow()
        with ThreadPoolExecutor(1) as compute:
            engine = BatchEngine(runner, max_queue_size=2, compute=compute)
            running = asyncio.create_task(engine.run())
            runner.gate.clear()
            first, second = (engine.use_tokenizer(TokenizeText(text)) for text in ("a", "bug"))
            with pytest.raises(Overloaded):
                engine.use_tokenizer(TokenizeText("c"))
            first.cancel()
            runner.gate.set()
            with pytest.raises(Exception, match="the server failed"):
                await asyncio.wait_for(second, 30)
            assert (await engine.use_tokenizer(TokenizeText("d")))["tokens"] == [1]
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_a_model_with_code_of_its_own_has_no_tokenizer() -> None:
    with pytest.raises(InvalidRequest, match="own code"):
        ScriptedRunner().use_tokenizer(TokenizeText("a"))

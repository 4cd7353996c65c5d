"""Promises: sampling and the end of a text are controlled as vLLM's and transformers' users know them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MinPLogitsWarper

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.generate.sampling import choose_tokens
from runners.engines.generation_request import Sampling
from runners.tasks.text2text_generation import Text2TextGenerationRunner
from runners.tasks.text_generation import TextGenerationRunner
from tests.e2e.checkpoints import text2text_generation
from tests.generators import generator_of
from tests.tiny import CORPUS, llama_model

NEW: dict[str, Any] = {"return_full_text": False, "details": True, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("llama"))


def _load(folder: Path) -> TextGenerationRunner:
    runner = TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text-generation"))
    runner.load()
    return runner


@pytest.fixture(scope="module")
def runner(folder: Path) -> TextGenerationRunner:
    return _load(folder)


@pytest.fixture(scope="module")
def beams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("beams"), num_beams=3)


def _ask(runner: Any, instance: Any, **parameters: Any) -> Any:
    (answer,) = runner.predict([Item(instance, {**NEW, **parameters})])
    return answer if isinstance(answer, Exception) else answer[0]


def _refused(runner: Any, field: str, instance: Any = "Hello", **parameters: Any) -> None:
    answer = _ask(runner, instance, **parameters)
    assert isinstance(answer, InvalidRequest)
    assert answer.field is not None
    assert answer.field.startswith(field), answer.message


# min_p


@pytest.mark.parametrize("min_p", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.9)])
def test_min_p_leaves_the_tokens_that_transformers_leaves(min_p: float, top_k: int, top_p: float) -> None:
    torch.manual_seed(3)
    logits = 3 * torch.randn(1, 2000)
    temperature = 0.7
    warper: Any = MinPLogitsWarper(min_p)
    kept = warper(None, logits / temperature)
    allowed = set(torch.nonzero(kept[0].isfinite()).flatten().tolist())
    drawn = {
        choose_tokens(logits.clone(), [Sampling(temperature, top_k, top_p, 0, min_p)], [number / 400])[0]
        for number in range(400)
    }
    assert drawn <= allowed
    if top_k == 0 and top_p == 1 and len(allowed) < 20:
        assert drawn == allowed


def test_min_p_of_one_sequence_changes_no_other() -> None:
    torch.manual_seed(4)
    logits = 2 * torch.randn(1, 500)
    plain, limited = Sampling(1.0, 40, 0.95, 0), Sampling(1.0, 0, 1.0, 0, 0.3)
    for number in range(50):
        u = number / 50
        alone = choose_tokens(logits.clone(), [plain], [u]) + choose_tokens(logits.clone(), [limited], [u])
        assert choose_tokens(logits.repeat(2, 1), [plain, limited], [u, u]) == alone


def test_min_p_comes_before_top_p() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()
    # min_p leaves 0.5, 0.2 and 0.2, of which the first two are the nucleus of 0.75.
    drawn = {choose_tokens(logits.clone(), [Sampling(1.0, 0, 0.75, 0, 0.3)], [n / 50])[0] for n in range(50)}
    assert drawn == {0, 1}


def test_min_p_of_one_is_greedy(runner: TextGenerationRunner) -> None:
    greedy = _ask(runner, CORPUS[0], max_new_tokens=9)
    sampled = _ask(runner, CORPUS[0], max_new_tokens=9, do_sample=True, top_k=0, min_p=1.0, seed=1)
    assert sampled["generated_text"] == greedy["generated_text"]


# Ends


def _tokens(runner: TextGenerationRunner, prompt: str, count: int) -> list[int]:
    answer = _ask(runner, prompt, max_new_tokens=count, logprobs=0)
    return [token["id"] for token in answer["logprobs"]]


def test_a_stop_token_ends_the_text_before_it_and_with_it(runner: TextGenerationRunner) -> None:
    tokens, tokenizer = _tokens(runner, CORPUS[0], 12), generator_of(runner).tokenizer
    index = next(i for i in range(4, 12) if tokens[i] not in tokens[:i])
    options = {"max_new_tokens": 12, "stop_token_ids": [tokens[index]]}
    answer = _ask(runner, CORPUS[0], **options)
    assert (answer["generated_text"], answer["finish_reason"]) == (tokenizer.decode(tokens[:index]), "stop")
    assert answer["generated_tokens"] == index + 1
    included = _ask(runner, CORPUS[0], **options, include_stop_str_in_output=True)
    assert included["generated_text"] == tokenizer.decode(tokens[: index + 1])


def test_a_stop_token_is_not_generated_before_the_least_length(runner: TextGenerationRunner) -> None:
    first = _tokens(runner, CORPUS[0], 1)[0]
    answer = _ask(runner, CORPUS[0], max_new_tokens=6, stop_token_ids=[first], min_new_tokens=4, logprobs=0)
    assert first not in [token["id"] for token in answer["logprobs"]][:4]
    assert answer["generated_tokens"] >= 4


def test_a_stop_string_can_end_the_text(runner: TextGenerationRunner) -> None:
    text = _ask(runner, CORPUS[0], max_new_tokens=20)["generated_text"]
    stop = text[7:10]
    end = text.index(stop)
    cut = _ask(runner, CORPUS[0], max_new_tokens=20, stop=stop)
    assert cut["generated_text"] == text[:end]
    kept = _ask(runner, CORPUS[0], max_new_tokens=20, stop=stop, include_stop_str_in_output=True)
    assert (kept["generated_text"], kept["stop_sequence"]) == (text[: end + len(stop)], stop)


def test_a_special_token_that_is_a_stop_string_can_end_the_text(folder: Path) -> None:
    runner = _load(folder)
    tokens = _tokens(runner, CORPUS[0], 8)
    index = next(i for i in range(2, 8) if tokens[i] not in tokens[:i])
    name = "<|endoftext|>"
    bias = {"max_new_tokens": 1, "logit_bias": {"0": 100}, "stop": name}
    assert _ask(runner, CORPUS[0], **bias)["generated_text"] == ""
    for skips in (True, False):
        answer = _ask(runner, CORPUS[0], **bias, include_stop_str_in_output=True, skip_special_tokens=skips)
        assert (answer["generated_text"], answer["stop_sequence"]) == (name, name)
    assert index


def test_special_tokens_can_be_shown(runner: TextGenerationRunner) -> None:
    options = {"max_new_tokens": 2, "logit_bias": {"0": 100}}
    assert _ask(runner, CORPUS[0], **options)["generated_text"] == ""
    shown = _ask(runner, CORPUS[0], **options, skip_special_tokens=False)
    assert shown["generated_text"] == "<|endoftext|>" * 2
    ended = _ask(runner, CORPUS[0], **options, skip_special_tokens=False, ignore_eos=False)
    assert (ended["generated_text"], ended["generated_tokens"]) == ("", 1)


def test_stop_tokens_that_the_model_lacks_are_refused(runner: TextGenerationRunner) -> None:
    _refused(runner, "parameters.stop_token_ids[1]", stop_token_ids=[3, 10**6])
    _refused(runner, "parameters.stop_token_ids", stop_token_ids=[-1])


# Beams


def test_a_length_penalty_is_that_of_transformers(beams: Path) -> None:
    runner = _load(beams)
    model: Any = AutoModelForCausalLM.from_pretrained(beams)
    tokenizer: Any = AutoTokenizer.from_pretrained(beams)
    texts = set()
    for penalty in (-5.0, 0.0, 1.0, 5.0):
        (answer,) = runner.predict(
            [Item(CORPUS[0], {"return_full_text": False, "max_new_tokens": 30, "length_penalty": penalty})]
        )
        ids = torch.tensor([tokenizer(CORPUS[0])["input_ids"]])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, num_beams=3, length_penalty=penalty,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
        expected = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer[0]["generated_text"] == expected
        texts.add(expected)
    (answer,) = runner.predict([Item(CORPUS[0], {"use_beam_search": True, "max_new_tokens": 2})])
    assert not isinstance(answer, Exception)


def test_beams_are_refused_where_there_are_none(runner: TextGenerationRunner) -> None:
    _refused(runner, "parameters.length_penalty", length_penalty=2.0)
    _refused(runner, "parameters.use_beam_search", use_beam_search=True)
    assert "generated_text" in _ask(runner, "a", length_penalty=1.0, use_beam_search=False, max_new_tokens=1)


# Prompts


def test_the_last_tokens_of_a_prompt_are_kept(runner: TextGenerationRunner) -> None:
    tokenizer = generator_of(runner).tokenizer
    ids: list[int] = tokenizer(CORPUS[0])["input_ids"]
    expected = _ask(runner, ids[-4:], max_new_tokens=5)
    for instance in (CORPUS[0], ids):
        answer = _ask(runner, instance, max_new_tokens=5, truncate_prompt_tokens=4)
        assert (answer["generated_text"], answer["prompt_tokens"]) == (expected["generated_text"], 4)
    echoed = _ask(runner, CORPUS[0], max_new_tokens=0, truncate_prompt_tokens=4, return_full_text=True)
    assert echoed["generated_text"] == tokenizer.decode(ids[-4:])
    whole = _ask(runner, CORPUS[0], max_new_tokens=5, truncate_prompt_tokens=1000)
    assert whole["prompt_tokens"] == len(ids)
    chat = [{"role": "user", "content": CORPUS[0]}]
    assert _ask(runner, chat, max_new_tokens=2, truncate_prompt_tokens=3)["prompt_tokens"] == 3


def test_as_much_of_a_prompt_as_fits_is_kept(runner: TextGenerationRunner) -> None:
    limit = generator_of(runner).max_length
    assert limit is not None
    long = [5 + i % 300 for i in range(3 * limit)]
    fits = _ask(runner, long, max_new_tokens=4, truncate_prompt_tokens=-1)
    assert fits["prompt_tokens"] == limit - 4
    assert fits["generated_text"] == _ask(runner, long, max_new_tokens=4, truncation=True)["generated_text"]
    _refused(runner, "parameters.truncate_prompt_tokens", truncate_prompt_tokens=0)
    _refused(runner, "parameters.truncate_prompt_tokens", truncate_prompt_tokens=-2)


def test_an_encoder_decoder_model_refuses_to_keep_the_last_tokens(tmp_path: Path) -> None:
    settings = ModelSettings(storage_uri=str(text2text_generation(tmp_path)), task="text2text-generation")
    text2text = Text2TextGenerationRunner(settings)
    text2text.load()
    (answer,) = text2text.predict([Item("Hello", {"truncate_prompt_tokens": 1})])
    assert isinstance(answer, InvalidRequest)
    assert answer.field == "parameters.truncate_prompt_tokens"


# Structured outputs


def _constrained(runner: TextGenerationRunner, **outputs: Any) -> str:
    options = {"max_new_tokens": 60, "ignore_eos": False, "do_sample": True, "top_k": 0, "seed": 5}
    text: str = _ask(runner, "Hello", structured_outputs=outputs, **options)["generated_text"]
    return text


def test_each_structured_output_is_enforced(runner: TextGenerationRunner) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    for given in (schema, json.dumps(schema)):
        assert json.loads(_constrained(runner, json=given))["a"] in (1, 2)
    assert _constrained(runner, regex="(yes|no)!") in ("yes!", "no!")
    assert _constrained(runner, choice=["red\n", 'bl"ue', "grün"]) in ("red\n", 'bl"ue', "grün")
    assert _constrained(runner, grammar='start: "a" | "b" "c"') in ("a", "bc")
    assert _constrained(runner, grammar='root ::= "a" | "b" "c"') in ("a", "bc")
    assert _constrained(runner, json_object=True).startswith("{")
    compact = _constrained(runner, json=schema, disable_any_whitespace=True)
    assert compact in ('{"a":1}', '{"a":2}')
    assert "\n" not in _constrained(runner, json=schema, whitespace_pattern=" ?")


@pytest.mark.parametrize(
    ("outputs", "field"),
    [
        ({}, "parameters.structured_outputs"),
        ({"regex": "a", "choice": ["a"]}, "parameters.structured_outputs"),
        ({"choice": []}, "parameters.structured_outputs.choice"),
        ({"structural_tag": "x"}, "parameters.structured_outputs.structural_tag"),
        ({"regex": "(?=a)b"}, "structured_outputs.regex"),
        ({"json": "{"}, "structured_outputs.json"),
        ({"json": {"type": "strin"}}, "structured_outputs.json"),
        ({"grammar": "x y z"}, "structured_outputs.grammar"),
        ({"grammar": "start: %lark { start: \"a\" }"}, "structured_outputs.grammar"),
        ({"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000}, "structured_outputs.grammar"),
        ({"grammar": 'start: %json {"type": "strin"}'}, "structured_outputs.grammar"),
        ({"grammar": 'start: %json ' + '{"items": ' * 5000 + "{}" + "}" * 5000}, "structured_outputs.grammar"),
        ({"grammar": ""}, "structured_outputs.grammar"),
        (
            {"grammar": "start: A\nA: " + " & ".join(f"/(?s:.*)a{i}b(?s:.*)/" for i in range(30))},
            "structured_outputs.grammar",
        ),
        ({"grammar": '{"grammars": [{"json_schema": {}}]}'}, "structured_outputs.grammar"),
    ],
)  # fmt: skip
def test_a_wrong_structured_output_is_refused_by_name(runner: TextGenerationRunner, outputs: Any, field: str) -> None:
    _refused(runner, field, structured_outputs=outputs)


def test_one_format_is_enough(runner: TextGenerationRunner) -> None:
    both = {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}
    _refused(runner, "parameters.structured_outputs", **both)


def test_a_schema_within_a_grammar_is_checked_as_others_are(runner: TextGenerationRunner) -> None:
    low = 'start: %json {"type": "integer", "minimum": -9223372036854775808, "maximum": -9223372036854775000}'
    assert "generated_text" in _ask(runner, "Hello", structured_outputs={"grammar": low}, max_new_tokens=3)

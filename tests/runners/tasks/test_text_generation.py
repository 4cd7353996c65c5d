"""Promise: text generation answers as `model.generate` does for each prompt, in any batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    pipeline,
)

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.generation_request import SequenceOutput
from runners.tasks.text_generation import TextGenerationRunner
from tests.tiny import (
    CHAT_TEMPLATE,
    CONTEXT,
    CORPUS,
    DECODER,
    byte_level_tokenizer,
    gpt2_model,
    llama_model,
    metaspace_tokenizer,
    save,
    with_generation_config,
)

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello world"}]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt2_model(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def runner_of_llama(llama: Path) -> TextGenerationRunner:
    return _runner(llama)


def _runner(folder: Path, **settings: Any) -> TextGenerationRunner:
    runner = TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text-generation", **settings))
    runner.load()
    return runner


def _new(runner: TextGenerationRunner, prompt: Any, **parameters: Any) -> Any:
    """Return the new text of the only answer, or the error."""
    (answer,) = runner.predict([Item(prompt, {"return_full_text": False, **parameters})])
    return answer if isinstance(answer, InvalidRequest) else answer[0]["generated_text"]


class Oracle:
    """Reference answers of plain transformers, one prompt at a time."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def __call__(self, prompt: str | list[int], **options: Any) -> list[str]:
        ids = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        with torch.inference_mode():
            out = self.model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), pad_token_id=0, **options
            )
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in out[:, len(ids) :]]

    def length(self, prompt: str) -> int:
        return len(self.tokenizer(prompt)["input_ids"])


def _invalid(answer: Any, *named: str) -> None:
    assert isinstance(answer, InvalidRequest)
    for text in named:
        assert text in answer.message


def test_a_mixed_greedy_batch_answers_each_prompt_as_generate_does(folder: Path) -> None:
    runner, oracle = _runner(folder), Oracle(folder)
    items = [Item(text[: 3 + 9 * i], {"max_new_tokens": 1 + 4 * i}) for i, text in enumerate(CORPUS)]
    items += [Item("I", {"max_new_tokens": 25, "repetition_penalty": 1.3}) for _ in range(2)]
    answers = runner.predict(items)

    expected = [item.instance + oracle(item.instance, **item.parameters)[0] for item in items]
    assert [answer[0]["generated_text"] for answer in answers] == expected
    assert len(set(expected)) == len(CORPUS) + 1


def test_a_penalty_for_repetition_does_not_count_padding(folder: Path) -> None:
    runner, oracle = _runner(folder), Oracle(folder)
    options: dict[str, Any] = {"max_new_tokens": 30, "repetition_penalty": 1.5}
    answers = runner.predict([Item(text, options) for text in (CORPUS[0], "I", CORPUS[2])])
    assert [a[0]["generated_text"] for a in answers] == [
        t + oracle(t, **options)[0] for t in (CORPUS[0], "I", CORPUS[2])
    ]


def test_a_ban_on_repeated_words_does_not_count_padding(tmp_path: Path) -> None:
    oracle = Oracle(gpt2_model(tmp_path))
    ids = oracle.tokenizer("The", return_tensors="pt")
    end = oracle.model.generate(**ids, no_repeat_ngram_size=1, max_new_tokens=9)[0, -1].item()
    with_generation_config(tmp_path, {"no_repeat_ngram_size": 1, "eos_token_id": end, "pad_token_id": end})
    runner = _runner(tmp_path)
    (alone,) = runner.predict([Item("The", {"max_new_tokens": 30})])
    assert runner.predict([Item("The", {"max_new_tokens": 30}), Item(CORPUS[0], {"max_new_tokens": 30})])[0] == alone
    assert len(oracle.tokenizer(alone[0]["generated_text"])["input_ids"]) < 20


def test_the_space_between_the_prompt_and_the_next_word_is_kept(tmp_path: Path, llama: Path) -> None:
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "</s>"]))
    tokenizer: Any = PreTrainedTokenizerFast
    tokenizer = tokenizer(tokenizer_object=words, eos_token="</s>", unk_token="<unk>")
    config = LlamaConfig.from_pretrained(llama, vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=1)
    folder = save(tmp_path, LlamaForCausalLM, config, tokenizer)
    oracle = Oracle(folder)
    prompts = [text[:n] for text in CORPUS[:5] for n in (12, 20, 30)]
    answers = _runner(folder).predict([Item(prompt) for prompt in prompts])
    full = [
        oracle.tokenizer.decode(
            oracle.model.generate(**oracle.tokenizer(prompt, return_tensors="pt"), max_new_tokens=20)[0],
            skip_special_tokens=True,
        )
        for prompt in prompts
    ]
    kept = [
        (answer, text) for prompt, answer, text in zip(prompts, answers, full, strict=True) if text.startswith(prompt)
    ]
    assert all(answer[0]["generated_text"] == text for answer, text in kept)
    assert any(text[len(prompt)] == " " for prompt, text in zip(prompts, full, strict=True) if text.startswith(prompt))


def test_answers_have_the_form_of_the_pipeline(llama: Path) -> None:
    oracle = pipeline("text-generation", model=str(llama), device="cpu")
    runner = _runner(llama)
    for instance in (CORPUS[1], CHAT, [*CHAT, {"role": "assistant", "content": "Hi, I"}]):
        for full in (True, False):
            options = {"max_new_tokens": 12, "return_full_text": full}
            (answer,) = runner.predict([Item(instance, options)])
            assert answer == oracle(instance, do_sample=False, **options)
    (as_object,) = runner.predict([Item({"messages": CHAT})])
    assert as_object == oracle(CHAT, do_sample=False, max_new_tokens=20)


def test_the_full_text_begins_with_the_prompt_exactly_as_given(llama: Path) -> None:
    prompt = "  Naïve \t <|endoftext|>  café ,  東"
    (answer,) = _runner(llama).predict([Item(prompt)])
    assert answer[0]["generated_text"].startswith(prompt)


def test_a_row_ends_at_its_end_of_text_and_other_rows_continue(tmp_path: Path) -> None:
    oracle = Oracle(gpt2_model(tmp_path))
    new = oracle.model.generate(torch.tensor([oracle.tokenizer("The")["input_ids"]]), max_new_tokens=30)[0].tolist()
    folder = with_generation_config(tmp_path, {"eos_token_id": [0, new[6]]})
    oracle = Oracle(folder)
    texts = ["The", *CORPUS[:3]]
    answers = _runner(folder).predict([Item(text, {"max_new_tokens": 30}) for text in texts])
    expected = [oracle(text, max_new_tokens=30)[0].removesuffix(oracle.tokenizer.decode(new[6])) for text in texts]
    assert [answer[0]["generated_text"] for answer in answers] == [t + e for t, e in zip(texts, expected, strict=True)]
    assert len({len(text) for text in expected}) > 1


# Sampling


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.6, "top_k": 0, "top_p": 0.8}, {"top_k": 0}, {"top_k": 7, "top_p": 0.9}],
    ids=["plain", "nucleus", "all tokens", "both"],
)
def test_a_seed_gives_the_same_text_alone_and_in_any_batch(folder: Path, options: dict[str, Any]) -> None:
    runner = _runner(folder)
    given = {"do_sample": True, "max_new_tokens": 15, "temperature": 1.5, **options}
    items = [Item(CORPUS[0], {**given, "seed": seed}) for seed in (3, 4, 3)]
    (alone,), (other,) = (runner.predict([item]) for item in items[:2])
    state = torch.get_rng_state()
    company = [Item("I"), *items, Item(CORPUS[1], {"do_sample": True, "top_p": 0.5, "seed": 3})]
    assert runner.predict(company)[1:-1] == [alone, other, alone]
    assert torch.equal(torch.get_rng_state(), state)
    assert alone != other


def test_sequences_of_one_prompt_use_consecutive_seeds(folder: Path) -> None:
    runner = _runner(folder)
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 12, "return_full_text": False}
    (several,) = runner.predict([Item("Paris", {**options, "seed": 5, "num_return_sequences": 3})])
    assert [entry["generated_text"] for entry in several] == [
        _new(runner, "Paris", **options, seed=5 + i) for i in range(3)
    ]
    assert len({entry["generated_text"] for entry in several}) == 3


def test_without_a_seed_answers_differ(llama: Path) -> None:
    runner = _runner(llama)
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 30}
    assert _new(runner, "Paris", **options) != _new(runner, "Paris", **options)


def test_temperature_zero_is_greedy(folder: Path) -> None:
    runner = _runner(folder)
    assert _new(runner, CORPUS[0], do_sample=True, temperature=0) == _new(runner, CORPUS[0])


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 0.0}])
def test_several_sequences_need_sampling(llama: Path, options: dict[str, Any]) -> None:
    _invalid(_new(_runner(llama), "Paris", num_return_sequences=2, **options), "parameters.num_return_sequences is 2")


def test_beams_of_the_model_are_used_and_bound_the_sequences(tmp_path: Path) -> None:
    folder = gpt2_model(tmp_path, num_beams=3)
    runner, oracle = _runner(folder), Oracle(folder)
    items = [Item(text[:n], {"max_new_tokens": n, "num_return_sequences": 2}) for text in CORPUS[:3] for n in (6, 12)]
    for item, answer in zip(items, runner.predict(items), strict=True):
        expected = oracle(item.instance, **item.parameters)
        assert [entry["generated_text"] for entry in answer] == [item.instance + text for text in expected]
    _invalid(_new(runner, "Paris", num_return_sequences=4, do_sample=True), "3 beams")


# Lengths


def test_with_nothing_set_there_are_twenty_new_tokens(folder: Path) -> None:
    for text in ("I", CORPUS[3]):
        assert _new(_runner(folder), text) == Oracle(folder)(text, max_new_tokens=20)[0]


def test_max_length_counts_the_prompt_and_max_new_tokens_wins(folder: Path) -> None:
    runner, oracle = _runner(folder), Oracle(folder)
    assert _new(runner, CORPUS[0], max_length=40) == oracle(CORPUS[0], max_length=40)[0]
    assert _new(runner, CORPUS[0], max_length=2, max_new_tokens=7) == oracle(CORPUS[0], max_new_tokens=7)[0]


def test_the_operators_limit_of_new_tokens_refuses_requests_and_caps_defaults(
    llama: Path,
) -> None:
    runner, oracle = _runner(llama, max_new_tokens=6), Oracle(llama)
    _invalid(_new(runner, CORPUS[0], max_new_tokens=7), "parameters.max_new_tokens is 7", "allows 6 (MAX_NEW_TOKENS)")
    expected = oracle(CORPUS[0], max_new_tokens=6)[0]
    assert _new(runner, CORPUS[0], max_new_tokens=6) == expected
    assert _new(runner, CORPUS[0]) == expected
    assert _new(runner, CORPUS[0], max_length=60) == expected
    assert _new(runner, CORPUS[0], fill_context=True) == expected


def test_a_prompt_that_fills_max_length_is_refused_with_both_lengths(llama: Path) -> None:
    runner, length = _runner(llama), Oracle(llama).length(CORPUS[0])
    _invalid(_new(runner, CORPUS[0], max_length=length), f"max_length is {length}", f"takes {length}")
    _invalid(_new(_runner(llama, max_length=3), CORPUS[0]), "max_length is 3", f"takes {length}")
    assert _new(runner, CORPUS[0], max_length=length + 1) == Oracle(llama)(CORPUS[0], max_new_tokens=1)[0]


def test_the_request_wins_over_the_operators_max_length(llama: Path) -> None:
    runner, oracle = _runner(llama, max_length=30), Oracle(llama)
    assert _new(runner, "Paris") == oracle("Paris", max_length=30)[0]
    assert _new(runner, "Paris", max_length=12) == oracle("Paris", max_length=12)[0]
    assert _new(runner, CORPUS[5], max_new_tokens=4) == oracle(CORPUS[5], max_new_tokens=4)[0]


def test_new_tokens_end_with_the_context_even_next_to_longer_answers(folder: Path) -> None:
    runner, oracle = _runner(folder), Oracle(folder)
    long = "the " * 50
    options = [("I", 500), (long, 500), (long, 5)]
    answers = runner.predict([Item(text, {"max_new_tokens": n}) for text, n in options])
    for (text, n), answer in zip(options, answers, strict=True):
        new = min(n, CONTEXT - oracle.length(text))
        assert answer[0]["generated_text"] == text + oracle(text, max_new_tokens=new)[0]


def test_a_prompt_that_fills_the_context_is_refused_with_both_lengths_unless_truncated(folder: Path) -> None:
    runner, oracle = _runner(folder), Oracle(folder)
    text = " ".join(CORPUS * 3)
    ids = oracle.tokenizer(text)["input_ids"]
    _invalid(_new(runner, text), f"{len(ids)} tokens", f"context length is {CONTEXT} tokens")
    for given, new in ((10, 10), (500, CONTEXT // 2)):
        expected = oracle(ids[new - CONTEXT :], max_new_tokens=new)[0]
        assert _new(runner, text, truncation=True, max_new_tokens=given) == expected
    assert _new(_runner(folder, truncation=True), text) == oracle(ids[20 - CONTEXT :], max_new_tokens=20)[0]


def test_truncation_keeps_the_token_that_begins_a_text(llama: Path) -> None:
    oracle = Oracle(llama)
    text = "<|endoftext|>" + " ".join(CORPUS * 3)
    ids = oracle.tokenizer(text)["input_ids"]
    expected = oracle(ids[:1] + ids[11 - CONTEXT :], max_new_tokens=10)[0]
    assert _new(_runner(llama), text, truncation=True, max_new_tokens=10) == expected


def test_an_empty_prompt_begins_a_text_if_the_model_can(tmp_path: Path, llama: Path) -> None:
    assert _new(_runner(llama), "") == Oracle(llama)([0], max_new_tokens=20)[0]
    tokenizer = byte_level_tokenizer(CONTEXT)
    tokenizer.bos_token = None
    folder = save(tmp_path, LlamaForCausalLM, LlamaConfig.from_pretrained(llama), tokenizer)
    _invalid(_new(_runner(folder), ""), "prompt is empty")


def test_min_new_tokens_delays_the_end_and_must_fit(tmp_path: Path) -> None:
    oracle = Oracle(gpt2_model(tmp_path))
    first = oracle.model.generate(torch.tensor([oracle.tokenizer("The")["input_ids"]]), max_new_tokens=1)[0, -1]
    folder = with_generation_config(tmp_path, {"eos_token_id": int(first)})
    runner, oracle = _runner(folder), Oracle(folder)
    assert _new(runner, "The") == ""
    options = {"min_new_tokens": 5, "max_new_tokens": 9}
    text = _new(runner, "The", **options)
    assert text
    assert oracle("The", **options)[0].startswith(text)
    _invalid(_new(runner, "The", min_new_tokens=10, max_new_tokens=9), "min_new_tokens is 10", "9")


def test_the_models_own_settings_apply_unless_a_variable_exists(tmp_path: Path, gpt2: Path) -> None:
    own = {"do_sample": True, "temperature": 0.2, "top_k": 3, "top_p": 0.5, "max_length": 4, "min_length": 60}
    runner = _runner(gpt2_model(tmp_path, **own, no_repeat_ngram_size=1, stop_strings=["\n"]))
    oracle = Oracle(gpt2)
    texts = ["The", CORPUS[0], "I love"]
    answers = runner.predict([Item(text, {"max_new_tokens": 25, "return_full_text": False}) for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        expected = oracle(text, max_new_tokens=25, min_new_tokens=25, no_repeat_ngram_size=1)[0]
        assert answer[0]["generated_text"] == expected.split("\n")[0]


# Stop strings


def test_text_and_computation_end_at_the_first_stop_string(folder: Path) -> None:
    runner, oracle = _runner(folder), Oracle(folder)
    texts = ["The", CORPUS[0], CORPUS[3]]
    full = [oracle(text, max_new_tokens=40)[0] for text in texts]
    stops: list[Any] = [[full[0][20:23], full[0][9:12]], full[1][5], []]
    items = [
        Item(text, {"max_new_tokens": 40, "stop": stop, "return_full_text": False})
        for text, stop in zip(texts, stops, strict=True)
    ]
    answers = [answer[0]["generated_text"] for answer in runner.predict(items)]
    assert answers[0] == min((full[0].split(stop)[0] for stop in stops[0]), key=len)
    assert answers[1] == full[1].split(stops[1])[0]
    assert answers[2] == full[2]
    (stopped,) = runner.predict([Item("The", {**items[0].parameters, "details": True})])
    assert stopped[0]["finish_reason"] == "stop"
    assert stopped[0]["generated_tokens"] < 40


def test_a_stop_string_in_the_prompt_stops_nothing(llama: Path) -> None:
    runner = _runner(llama)
    assert _new(runner, CORPUS[0], stop=CORPUS[0][-4:]) == _new(runner, CORPUS[0])


def test_a_special_token_can_be_a_stop_string(tmp_path: Path) -> None:
    oracle = Oracle(gpt2_model(tmp_path))
    new = oracle.model.generate(torch.tensor([oracle.tokenizer("The")["input_ids"]]), max_new_tokens=9)[0].tolist()[1:]
    tokenizer = oracle.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": [tokenizer.convert_ids_to_tokens(new[-1])]})
    tokenizer.save_pretrained(tmp_path)
    stop = tokenizer.convert_ids_to_tokens(new[-1])
    (row,) = _runner(tmp_path).prepare_item(Item("The", {"stop": stop})).rows
    assert row.inputs.stop_ids == {new[-1]: stop}
    assert _new(_runner(tmp_path), "The", stop=stop) == tokenizer.decode(new[: new.index(new[-1])])


# Instances and parameters


def test_a_chat_without_a_template_or_rejected_by_it_is_refused(tmp_path: Path, llama: Path) -> None:
    _invalid(_new(_runner(llama_model(tmp_path, chat_template=None)), CHAT), "no chat template")
    _invalid(_new(_runner(llama), [{"role": "assistant", "content": "x"}]), "messages", "nobody has asked")


def test_rules_that_leave_no_token_are_an_error(tmp_path: Path) -> None:
    runner = _runner(llama_model(tmp_path, no_repeat_ngram_size=2))
    with pytest.raises(InvalidRequest, match="excludes every"):
        _new(runner, "The", response_format={"type": "regex", "regex": "(abc){20}"}, max_new_tokens=80)


# Tools

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Berlin"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "population")
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> TextGenerationRunner:
    """Save a model whose context has room for tools in the prompt."""
    return _runner(llama_model(tmp_path_factory.mktemp("chatting"), context=4096), return_full_text=False)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "population"}),
        ({"type": "function", "function": {"name": "population"}}, {"population"}),
    ],
)
def test_a_required_call_is_generated_with_valid_arguments(
    chatting: TextGenerationRunner, choice: Any, names: set[str]
) -> None:
    instance = {"messages": CHAT[1:], "tools": TOOLS[:2], "tool_choice": choice, "parallel_tool_calls": False}
    items = [Item(instance, {"max_new_tokens": 500, "do_sample": True, "seed": seed}) for seed in range(4)]
    for (answer,) in chatting.predict(items):
        (call,) = answer["tool_calls"]
        assert call["name"] in names
        assert json.loads(call["arguments"])["city"] in ("Paris", "Berlin")
        assert answer["generated_text"] == ""


def _job_with_tools(runner: TextGenerationRunner, **options: Any) -> Any:
    instance = {"messages": CHAT[1:], "tools": TOOLS, **options}
    return runner.prepare_item(Item(instance, {"details": True, "return_full_text": False, "max_new_tokens": 30}))


def test_calls_are_separated_from_text_whole_and_streamed(chatting: TextGenerationRunner) -> None:
    text = f"I will look. {CALL}"
    written = SequenceOutput([1, 2, 3], text, "stop")
    job = _job_with_tools(chatting)
    expected = [{"name": "weather", "arguments": '{"city": "Paris"}'}]
    (answer,) = chatting.finish(job, [written])
    assert (answer["generated_text"], answer["tool_calls"]) == ("I will look.", expected)
    delta = chatting.create_delta_maker(job, 0)
    deltas = [delta(text[i : i + 3], [], None) for i in range(0, len(text), 3)] + [delta("", [], written)]
    told = [delta for delta in deltas if delta is not None]
    assert "".join(delta["generated_text"] for delta in told) == "I will look."
    assert [call for delta in told for call in delta.get("tool_calls", [])] == expected
    assert told[-1]["finish_reason"] == "stop"


def test_with_tools_that_must_not_be_called_an_answer_is_plain_text(chatting: TextGenerationRunner) -> None:
    job = _job_with_tools(chatting, tool_choice="none")
    (answer,) = chatting.finish(job, [SequenceOutput([1], CALL, "stop")])
    assert answer["generated_text"] == CALL
    assert "tool_calls" not in answer
    assert job.rows[0].inputs.grammar is None


def test_the_full_text_of_a_chat_ends_with_its_calls(chatting: TextGenerationRunner) -> None:
    job = chatting.prepare_item(Item({"messages": CHAT[1:], "tools": TOOLS}, {"return_full_text": True}))
    (answer,) = chatting.finish(job, [SequenceOutput([1], CALL, "stop")])
    assert answer["generated_text"][-1]["tool_calls"] == [{"name": "weather", "arguments": '{"city": "Paris"}'}]


def test_with_tools_and_a_response_format_an_answer_is_a_call_or_conforms(chatting: TextGenerationRunner) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["yes", "no"]}}}
    instance = {"messages": CHAT[1:], "tools": TOOLS}
    parameters = {"response_format": form, "max_new_tokens": 500, "do_sample": True}
    items = [Item(instance, {**parameters, "seed": seed}) for seed in range(8)]
    for (answer,) in chatting.predict(items):
        calls = answer.get("tool_calls", [])
        assert answer["generated_text"] in (("",) if calls else ('"yes"', '"no"'))
        assert all(json.loads(call["arguments"])["city"] in ("Paris", "Berlin") for call in calls)
    assert isinstance(_new(chatting, {**instance, "tool_choice": "none"}, response_format={"type": "text"}), str)


@pytest.mark.parametrize(
    ("instance", "parameters", "named"),
    [
        (7, {}, "must be a string"),
        ([1, 10**6], {}, "[1]: must be a token of the model"),
        ({"messages": CHAT, "tools": [{"type": "function"}]}, {}, "tools[0].function"),
        ("a", {"response_format": {"type": "yaml"}}, "response_format.type"),
        ("a", {"logprobs": 21}, "parameters.logprobs"),
        ("a", {"presence_penalty": 3}, "parameters.presence_penalty"),
        ("a", {"logit_bias": {"x": 1}}, "parameters.logit_bias"),
        ("a", {"logit_bias": {"999999": 1}}, "parameters.logit_bias.999999"),
        ([], {}, "messages"),
        (["a"], {}, "messages[0]"),
        ([{"role": "robot", "content": "a"}], {}, "messages[0].role"),
        ([{"role": "user", "content": 1}], {}, "messages[0].content"),
        ({"prompt": "a"}, {}, "messages"),
        ("a", {"max_tokens": 5}, "parameters.max_tokens: unknown parameter"),
        ("a", {"max_new_tokens": 0}, "parameters.max_new_tokens"),
        ("a", {"max_length": "9"}, "parameters.max_length"),
        ("a", {"temperature": -0.1}, "parameters.temperature"),
        ("a", {"temperature": "1"}, "parameters.temperature"),
        ("a", {"top_k": -1}, "parameters.top_k"),
        ("a", {"top_p": 0.0}, "parameters.top_p"),
        ("a", {"top_p": 1.5}, "parameters.top_p"),
        ("a", {"num_return_sequences": 65}, "parameters.num_return_sequences"),
        ("a", {"repetition_penalty": 0.0}, "parameters.repetition_penalty"),
        ("a", {"seed": -1}, "parameters.seed"),
        ("a", {"seed": 2**63}, "parameters.seed"),
        ("a", {"stop": ""}, "parameters.stop[0]"),
        ("a", {"stop": ["x"] * 17}, "parameters.stop"),
        ("a", {"src_lang": "en"}, "parameters.src_lang"),
    ],
)
def test_a_wrong_instance_or_parameter_is_refused_by_name_and_harms_no_other(
    runner_of_llama: TextGenerationRunner, instance: Any, parameters: dict[str, Any], named: str
) -> None:
    wrong, right = runner_of_llama.predict([Item(instance, parameters), Item("I", {"max_new_tokens": 2})])
    _invalid(wrong, named)
    assert len(right) == 1


def test_parameters_of_one_item_do_not_affect_another(llama: Path) -> None:
    runner = _runner(llama)
    alone = _new(runner, CORPUS[0])
    others: list[dict[str, Any]] = [
        {"stop": [alone[1]]}, {"max_new_tokens": 2}, {"repetition_penalty": 3.0}, {"min_new_tokens": 20},
        {"do_sample": True, "seed": 1, "temperature": 5.0}, {"return_full_text": True},
    ]  # fmt: skip
    items = [Item(CORPUS[0], {"return_full_text": False, **given}) for other in others for given in (other, {})]
    assert {answer[0]["generated_text"] for answer in runner.predict(items)[1::2]} == {alone}


def test_operator_defaults_hold_unless_the_request_overrides_them(llama: Path) -> None:
    runner = _runner(llama, do_sample=True, temperature=0.7, top_k=5, top_p=0.9, return_full_text=False)
    asked = {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "return_full_text": False}
    sampled = _new(_runner(llama), "I", seed=1, **asked)
    answers = runner.predict(
        [Item("I", {"seed": 1}), Item("I", {"do_sample": False}), Item("I", {"seed": 1, "return_full_text": True})]
    )
    assert [answer[0]["generated_text"] for answer in answers] == [
        sampled,
        Oracle(llama)("I", max_new_tokens=20)[0],
        "I" + sampled,
    ]


def test_the_warm_up_ignores_the_operators_lengths(llama: Path) -> None:
    _runner(llama, max_length=1).warm_up()


def test_an_encoder_decoder_is_refused_with_the_task_that_fits_it(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    folder = save(tmp_path, BartForConditionalGeneration, config, tokenizer)
    with pytest.raises(LoadError, match=r"encoder-decoder model.*text2text-generation"):
        _runner(folder)


@pytest.mark.parametrize("top_k", [2**31, 2**63 - 1, 2**63, 10**30])
def test_top_k_may_exceed_the_vocabulary(runner_of_llama: TextGenerationRunner, top_k: int) -> None:
    drawn, known = {"do_sample": True, "seed": 3, "max_new_tokens": 5}, runner_of_llama.generator.vocabulary
    assert _new(runner_of_llama, "Hello", top_k=top_k, **drawn) == _new(runner_of_llama, "Hello", top_k=known, **drawn)


def test_the_space_before_a_continued_answer_is_kept(tmp_path: Path) -> None:
    """Check decoders of Llama 2's kind, which drop the space before the first word of a text."""
    fast: Any = metaspace_tokenizer()
    fast.chat_template = CHAT_TEMPLATE
    folder = save(tmp_path, LlamaForCausalLM, LlamaConfig(**DECODER, vocab_size=len(fast)), fast)
    word = next(word for word in sorted(fast.get_vocab()) if word.startswith("▁") and len(word) > 3)
    chat = [{"role": "user", "content": "Paris"}, {"role": "assistant", "content": "Paris is the"}]
    runner = _runner(folder)
    written = {"max_new_tokens": 1, "logit_bias": {str(fast.convert_tokens_to_ids(word)): 100.0}}
    assert _new(runner, chat, **written) == _new(runner, "Paris is the", **written) == word.replace("▁", " ")
    assert _new(runner, chat[:1], **written) == word[1:].replace("▁", " ")
